//! Addresses, ports and protocol numbers of map keys and values.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IP address: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`.
///
/// Aligned to 4 bytes: the eBPF target copies and compares unaligned data byte by byte.
#[repr(C, align(4))]
#[derive(
    Clone, Copy, Debug, Default, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Addr(pub [u8; 16]);

impl Addr {
    /// `::`, used for "no address".
    pub const UNSPECIFIED: Addr = Addr([0; 16]);

    /// The v4-mapped form of four bytes in network order.
    #[inline(always)]
    pub const fn v4(b: [u8; 4]) -> Addr {
        Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, b[0], b[1], b[2], b[3]])
    }

    /// The four bytes of a v4-mapped address, in network order.
    #[inline(always)]
    pub const fn to_v4(self) -> Option<[u8; 4]> {
        if self.is_v4() { Some([self.0[12], self.0[13], self.0[14], self.0[15]]) } else { None }
    }

    /// Whether this is a v4-mapped address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        let b = &self.0;
        // By words: the eBPF target does not merge comparisons of bytes.
        u32::from_ne_bytes([b[0], b[1], b[2], b[3]]) == 0
            && u32::from_ne_bytes([b[4], b[5], b[6], b[7]]) == 0
            && u32::from_ne_bytes([b[8], b[9], b[10], b[11]])
                == u32::from_ne_bytes([0, 0, 0xff, 0xff])
    }

    /// The address as integers, in the order of memory.
    #[inline(always)]
    const fn words(self) -> [u32; 4] {
        zerocopy::transmute!(self)
    }
}

// By words, because a derived comparison of byte arrays loses their alignment.
impl PartialEq for Addr {
    #[inline(always)]
    fn eq(&self, other: &Addr) -> bool {
        self.words() == other.words()
    }
}

impl core::hash::Hash for Addr {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.words().hash(state);
    }
}

/// Address family; the number is the index in per-family arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4, stored as v4-mapped addresses.
    V4 = 0,
    /// IPv6.
    V6 = 1,
}

impl Addr {
    /// The family: IPv4 for v4-mapped addresses, IPv6 for all others.
    #[inline(always)]
    pub const fn family(&self) -> Family {
        if self.is_v4() { Family::V4 } else { Family::V6 }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(a: Ipv4Addr) -> Addr {
        Addr::v4(a.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(a: Ipv6Addr) -> Addr {
        Addr(a.octets())
    }
}

impl From<IpAddr> for Addr {
    fn from(a: IpAddr) -> Addr {
        match a {
            IpAddr::V4(a) => a.into(),
            IpAddr::V6(a) => a.into(),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(a: Addr) -> IpAddr {
        match a.to_v4() {
            Some(b) => IpAddr::V4(b.into()),
            None => IpAddr::V6(a.0.into()),
        }
    }
}

/// A port in network byte order, as in packets and in `bpf_sock_addr`.
#[repr(C, align(2))]
#[derive(
    Clone, Copy, Debug, Default, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PortBe(pub [u8; 2]);

impl PortBe {
    /// From a port number.
    #[inline(always)]
    pub const fn new(port: u16) -> PortBe {
        PortBe(port.to_be_bytes())
    }

    /// The port number.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

// By integers, see `Addr`.
impl PartialEq for PortBe {
    #[inline(always)]
    fn eq(&self, other: &PortBe) -> bool {
        u16::from_ne_bytes(self.0) == u16::from_ne_bytes(other.0)
    }
}

impl core::hash::Hash for PortBe {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// IP protocol numbers (IANA).
pub mod proto {
    /// Internet Control Message Protocol.
    pub const ICMP: u8 = 1;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// Stream Control Transmission Protocol.
    pub const SCTP: u8 = 132;
}
