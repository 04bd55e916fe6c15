//! The IP header.
//!
//! The only module that defines header layouts. Callers read [`Fields`], which are the same for
//! both families, and change a header by [`Header`]'s methods, with 16-byte addresses. IPv4 only so
//! far: an IPv6 header becomes a second layout behind the same functions.

use sluice_abi::Addr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::checksum::Delta;

mod v4;

/// Length in bytes of a [`Header`].
pub const LEN: usize = v4::LEN;

/// The bytes of an IP header without options.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header(pub [u8; LEN]);

/// Position of a packet within a fragmented datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Not a fragment.
    Whole,
    /// The first fragment.
    First,
    /// Any other fragment.
    Later,
}

/// The fields of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Header length in bytes, options included.
    pub header_len: u8,
    /// Total length in bytes, header included; 0 for a packet whose length exceeds the field
    /// (BIG TCP).
    pub total_len: u16,
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    /// Protocol number.
    pub proto: u8,
    /// Position within a fragmented datagram.
    pub fragment: Fragment,
    /// Identification of the datagram, in the byte order of the packet.
    pub fragment_id: u32,
}

/// Effect of new addresses on checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressChange {
    /// Change of the addresses, for every checksum over a pseudo header.
    pub pseudo_header: Delta,
    /// Change of the header as a whole, for a checksum over the header.
    pub header: Delta,
}

impl Header {
    /// Reads the fields. `None` if the version is not supported or the lengths contradict each
    /// other.
    #[inline(always)]
    pub fn parse(&self) -> Option<Fields> {
        v4::parse(&self.0)
    }

    /// Whether routers must not fragment the packet.
    #[inline(always)]
    pub const fn dont_fragment(&self) -> bool {
        v4::dont_fragment(&self.0)
    }

    /// Writes new addresses and updates the header's own checksum.
    #[inline(always)]
    pub fn set_addresses(&mut self, src: &Addr, dst: &Addr) -> AddressChange {
        v4::set_addresses(&mut self.0, src, dst)
    }

    /// Decrements the hop limit, which the caller has found to be above 0, and updates the header's
    /// own checksum.
    #[inline(always)]
    pub fn decrement_hop_limit(&mut self) {
        v4::decrement_ttl(&mut self.0);
    }

    /// The header of an ICMP error from `src` to `dst` with `payload_len` bytes after the header.
    #[inline(always)]
    pub fn of_icmp_error(src: &Addr, dst: &Addr, payload_len: u16) -> Header {
        Header(v4::of_icmp_error(src, dst, payload_len))
    }

    /// The header of a TCP reset.
    #[inline(always)]
    pub fn of_reset(src: &Addr, dst: &Addr, payload_len: u16) -> Header {
        Header(v4::of_reset(src, dst, payload_len))
    }
}

/// Whether this is an IPv4 loopback address (127/8).
#[inline(always)]
pub fn is_v4_loopback(a: &Addr) -> bool {
    a.is_v4() && a.0[12] == 127
}

/// Whether packets to or from this address are never routed: multicast, broadcast, unspecified and
/// link-local IPv6 addresses.
#[inline(always)]
pub const fn stays_on_link(a: &Addr) -> bool {
    let b = &a.0;
    if a.is_v4() {
        v4::stays_on_link([b[12], b[13], b[14], b[15]])
    } else {
        b[0] == 0xff || is_link_local(a) || is_unspecified(a)
    }
}

/// Whether an address is a loopback address, which no packet outside a host has (RFC 1122 section 3.2.1.3,
/// RFC 4291 section 2.5.3).
#[inline(always)]
pub const fn is_loopback(a: &Addr) -> bool {
    let b = &a.0;
    if a.is_v4() {
        b[12] == 127
    } else {
        let mut i = 0;
        while i < 15 {
            if b[i] != 0 {
                return false;
            }
            i += 1;
        }
        b[15] == 1
    }
}

/// Whether an IPv6 address has link-local scope: fe80::/10, or multicast of link-local scope.
#[inline(always)]
pub const fn is_link_local(a: &Addr) -> bool {
    let b = &a.0;
    (b[0] == 0xfe && b[1] & 0xc0 == 0x80) || (b[0] == 0xff && b[1] & 0x0f == 2)
}

/// Offset of the destination address in an IPv6 header.
pub const V6_DESTINATION: usize = 24;

const fn is_unspecified(a: &Addr) -> bool {
    let mut i = 0;
    while i < 16 {
        if a.0[i] != 0 {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(first: &[u8]) -> Addr {
        let mut a = [0; 16];
        a[..first.len()].copy_from_slice(first);
        Addr(a)
    }

    #[test]
    fn multicast_broadcast_and_unspecified_addresses_stay_on_the_link() {
        for a in [[224, 0, 0, 251], [255, 255, 255, 255], [0, 0, 0, 0], [0, 1, 2, 3]] {
            assert!(stays_on_link(&Addr::v4(a)), "{a:?}");
        }
        for a in [[10, 0, 0, 1], [223, 255, 255, 255], [169, 254, 1, 1]] {
            assert!(!stays_on_link(&Addr::v4(a)), "{a:?}");
        }
        for a in [&[0xfe, 0x80][..], &[0xfe, 0xbf], &[0xff, 0x02], &[0xff, 0x0e], &[]] {
            assert!(stays_on_link(&v6(a)), "{a:?}");
        }
        assert!(!stays_on_link(&v6(&[0x20, 0x01])));
        assert!(!stays_on_link(&v6(&[0xfe, 0xc0])));
    }

    #[test]
    fn loopback_addresses_are_127_and_one() {
        for a in [[127, 0, 0, 1], [127, 255, 255, 255]] {
            assert!(is_loopback(&Addr::v4(a)), "{a:?}");
        }
        for a in [[126, 255, 255, 255], [128, 0, 0, 1], [10, 0, 0, 127]] {
            assert!(!is_loopback(&Addr::v4(a)), "{a:?}");
        }
        let mut one = Addr::UNSPECIFIED;
        assert!(!is_loopback(&one));
        one.0[15] = 1;
        assert!(is_loopback(&one));
        one.0[0] = 0xfe;
        assert!(!is_loopback(&one));
    }

    #[test]
    fn link_local_scope_excludes_wider_multicast() {
        assert!(is_link_local(&v6(&[0xff, 0x02])));
        assert!(is_link_local(&v6(&[0xfe, 0x80])));
        assert!(!is_link_local(&v6(&[0xff, 0x0e])));
        assert!(!is_link_local(&v6(&[0x20, 0x01])));
    }
}
