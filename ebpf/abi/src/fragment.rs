//! Fragments of datagrams.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Addr, PortBe};

/// Key of `FRAGMENTS`: identifies the fragments of one datagram (RFC 791 section 3.2, RFC 8200
/// section 4.5).
#[repr(C, align(8))]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification (IPv4: 16 bits, IPv6: 32 bits), in the byte order of the packet.
    pub id: u32,
    /// IP protocol number.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
}

const _: () = assert!(size_of::<FragmentKey>() == 40);

/// Value of `FRAGMENTS`: the ports, which only the first fragment carries.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FragmentPorts {
    /// Source port.
    pub sport: PortBe,
    /// Destination port.
    pub dport: PortBe,
}
