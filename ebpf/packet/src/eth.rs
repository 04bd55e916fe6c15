//! The Ethernet II header.

use sluice_abi::Family;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Length in bytes of a header without VLAN tag.
pub const LEN: usize = 14;

/// Offset of the EtherType.
pub const TYPE: u32 = 12;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;

/// An Ethernet header without VLAN tag.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header(pub [u8; LEN]);

impl Header {
    /// The IP family that the EtherType announces, or `None` for other protocols.
    #[inline(always)]
    pub const fn family(&self) -> Option<Family> {
        match [self.0[12], self.0[13]] {
            [0x08, 0x00] => Some(Family::V4),
            [0x86, 0xdd] => Some(Family::V6),
            _ => None,
        }
    }

    /// Whether the EtherType announces ARP.
    #[inline(always)]
    pub const fn is_arp(&self) -> bool {
        self.0[12] == 0x08 && self.0[13] == 0x06
    }

    /// The receiver's hardware address.
    #[inline(always)]
    pub const fn destination(&self) -> [u8; 6] {
        let b = &self.0;
        [b[0], b[1], b[2], b[3], b[4], b[5]]
    }

    /// The sender's hardware address.
    #[inline(always)]
    pub const fn source(&self) -> [u8; 6] {
        let b = &self.0;
        [b[6], b[7], b[8], b[9], b[10], b[11]]
    }

    /// Sets both hardware addresses.
    #[inline(always)]
    pub fn set_addresses(&mut self, to: [u8; 6], from: [u8; 6]) {
        let mut i = 0;
        while i < 6 {
            self.0[i] = to[i];
            self.0[6 + i] = from[i];
            i += 1;
        }
    }

    /// Addresses the frame to its sender.
    #[inline(always)]
    pub fn swap_addresses(&mut self) {
        let b = &self.0;
        let to = [b[6], b[7], b[8], b[9], b[10], b[11]];
        let from = [b[0], b[1], b[2], b[3], b[4], b[5]];
        self.set_addresses(to, from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Header = Header([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x08, 0x00]);

    #[test]
    fn ether_type_decides_the_family() {
        let with = |ether_type: [u8; 2]| {
            let mut header = FRAME;
            header.0[12..].copy_from_slice(&ether_type);
            header.family()
        };
        assert_eq!(with([0x08, 0x00]), Some(Family::V4));
        assert_eq!(with([0x86, 0xdd]), Some(Family::V6));
        assert_eq!(with([0x08, 0x06]), None, "ARP");
        assert_eq!(with([0x81, 0x00]), None, "VLAN tag");
    }

    #[test]
    fn swapping_exchanges_the_addresses_and_keeps_the_ether_type() {
        let mut header = FRAME;
        header.swap_addresses();
        assert_eq!(header.0, [7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 0x08, 0x00]);
    }
}
