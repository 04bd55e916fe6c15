//! Flows: one flow, two keys, and each entry can rebuild the other.
//!
//! ```text
//! key  K = (src, sport, dst, dport)      as the packet comes in
//! value  = (src', sport', dst', dport')  as it goes out
//! partner key    = reverse of the value's tuple
//! partner value  = reverse of K
//! ```
//! DNAT, SNAT, both at once and none are the same thing here; so are forward and reply.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Addr, PortBe};

/// One direction of a flow, as its packets arrive at a hook.
///
/// For ICMP echo, `sport` of a request and `dport` of a reply hold the identifier and the other
/// port is 0.
#[repr(C, align(8))]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct FlowKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub sport: PortBe,
    /// Destination port.
    pub dport: PortBe,
    /// IP protocol number.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
}

const _: () = assert!(size_of::<FlowKey>() == 40);

impl FlowKey {
    /// The tuple of a packet that travels the other way.
    #[inline(always)]
    pub const fn reversed(&self) -> FlowKey {
        FlowKey {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            proto: self.proto,
            pad: [0; 3],
        }
    }
}

/// What becomes of a packet with some [`FlowKey`].
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FlowEntry {
    /// `bpf_ktime_get_boot_ns` of the newest packet of this direction.
    pub last_seen_ns: u64,
    /// The tuple with which the packet goes on (equal to the key's where nothing is translated).
    pub translated: FlowKey,
    /// Backend id of a flow that a Service translated, 0 otherwise.
    pub backend: u32,
    /// One of [`tcp_state`], of this direction; 0 for other protocols.
    pub tcp: u8,
    /// Bits of [`flow_flags`].
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 2],
}

const _: () = assert!(size_of::<FlowEntry>() == 56);

/// Bits of [`FlowEntry::flags`].
pub mod flow_flags {
    /// This entry is the direction of the flow's first packet.
    pub const FORWARD: u8 = 1;
    /// The destination was translated (Service).
    pub const DNAT: u8 = 2;
    /// The source was translated (masquerade, hairpin, port clash).
    pub const SNAT: u8 = 4;
    /// The node's stack forwarded the first packet to the pod, maybe translated by rules of somebody
    /// else (hostPort by the portmap plugin): replies have to go back through it.
    pub const VIA_STACK: u8 = 8;
}

/// What one direction of a TCP connection has said so far.
pub mod tcp_state {
    /// Nothing but a SYN.
    pub const SYN: u8 = 1;
    /// Data or an ACK.
    pub const OPEN: u8 = 2;
    /// A FIN.
    pub const FIN: u8 = 3;
    /// A RST in either direction.
    pub const RESET: u8 = 4;
}

/// Names the fragments of one datagram (RFC 791 section 3.2, RFC 8200 section 4.5).
#[repr(C, align(8))]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification (IPv4: 16 bits, IPv6: 32 bits), as read from the wire.
    pub id: u32,
    /// IP protocol number.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
}

const _: () = assert!(size_of::<FragmentKey>() == 40);

/// The ports that only the first fragment carried.
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
