//! Ethernet II: what the programs read and write of the link layer.

/// Bytes of a header without VLAN tag.
pub const LEN: usize = 14;
/// EtherType of IPv4.
pub const IPV4: [u8; 2] = [0x08, 0x00];
/// EtherType of ARP.
pub const ARP: [u8; 2] = [0x08, 0x06];
/// EtherType of IPv6.
pub const IPV6: [u8; 2] = [0x86, 0xdd];

/// Sets both hardware addresses of a frame that begins with `head`.
#[inline(always)]
pub fn set_addresses<const N: usize>(head: &mut [u8; N], to: [u8; 6], from: [u8; 6]) {
    let mut i = 0;
    while i < 6 && 6 + i < N {
        head[i] = to[i];
        head[6 + i] = from[i];
        i += 1;
    }
}
