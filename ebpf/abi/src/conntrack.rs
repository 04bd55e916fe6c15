//! Flows: two entries per flow, one per direction; each entry can rebuild the other.
//!
//! ```text
//! key            K  = tuple of a packet as it arrives
//! value          K' = tuple of the packet as it is sent on
//! reverse key       = reverse of K'
//! reverse value     = reverse of K
//! ```
//! Destination translation, source translation, both and neither have the same representation, and
//! so have both directions.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Addr, PortBe};

/// The tuple of one direction of a flow, as its packets arrive at a hook.
///
/// For ICMP echo, the identifier is the source port of a request and the destination port of a
/// reply; the other port is 0.
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
    /// The tuple of a packet in the opposite direction.
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

    /// Sets this tuple to the opposite direction of another one.
    #[inline(always)]
    pub fn reverse_of(&mut self, other: &FlowKey) {
        self.src = other.dst;
        self.dst = other.src;
        self.sport = other.dport;
        self.dport = other.sport;
        self.proto = other.proto;
        self.pad = other.pad;
    }
}

/// Value of `CONNTRACK`: how packets with some [`FlowKey`] are translated.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FlowEntry {
    /// `bpf_ktime_get_boot_ns` of the last packet of this direction, at most one second late.
    pub last_seen_ns: u64,
    /// The tuple after translation; equal to the key if nothing is translated.
    pub translated: FlowKey,
    /// Backend id of a Service flow, 0 otherwise.
    pub backend: u32,
    /// One of [`tcp_state`], of this direction; 0 for other protocols.
    pub tcp: u8,
    /// A [`FlowKind`]'s number; equal in both entries of a flow.
    pub kind: u8,
    /// A [`Direction`]'s number.
    pub direction: u8,
    /// Zero.
    pub pad: u8,
}

const _: () = assert!(size_of::<FlowEntry>() == 56);

impl FlowEntry {
    /// The kind of the flow, or `None` for a number that this version does not define.
    #[inline(always)]
    pub const fn kind(&self) -> Option<FlowKind> {
        FlowKind::from_number(self.kind)
    }

    /// The direction of the entry, or `None` for a number that this version does not define.
    #[inline(always)]
    pub const fn direction(&self) -> Option<Direction> {
        Direction::from_number(self.direction)
    }
}

/// Why a flow has entries, and how replies are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FlowKind {
    /// Neither to a Service nor masqueraded. Such a flow has entries only if another flow holds the
    /// tuple of its replies; the source port is then changed if the other flow is still alive.
    Direct = 1,
    /// To a Service; the destination is a backend.
    Service = 2,
    /// From a pod to an address outside the cluster; the source is the node's address.
    Masquerade = 3,
    /// To a Service, with the node's address as source: the backend is outside the cluster, or is
    /// the client itself (hairpin), or the client is outside the cluster.
    MasqueradedService = 4,
    /// From a client outside the cluster to a pod's own address. Not translated; recorded so that
    /// replies are not masqueraded.
    ExternalClient = 5,
    /// Forwarded to a pod by the node's stack, possibly translated by netfilter (hostPort of the
    /// portmap plugin). Replies return through the stack.
    ViaStack = 6,
}

impl FlowKind {
    /// Every kind, in order of its number.
    pub const ALL: [FlowKind; 6] = [
        FlowKind::Direct,
        FlowKind::Service,
        FlowKind::Masquerade,
        FlowKind::MasqueradedService,
        FlowKind::ExternalClient,
        FlowKind::ViaStack,
    ];

    /// The kind with number `n`.
    #[inline(always)]
    pub const fn from_number(n: u8) -> Option<FlowKind> {
        match n {
            1 => Some(FlowKind::Direct),
            2 => Some(FlowKind::Service),
            3 => Some(FlowKind::Masquerade),
            4 => Some(FlowKind::MasqueradedService),
            5 => Some(FlowKind::ExternalClient),
            6 => Some(FlowKind::ViaStack),
            _ => None,
        }
    }

    /// The label on the command line.
    pub const fn label(self) -> &'static str {
        match self {
            FlowKind::Direct => "direct",
            FlowKind::Service => "service",
            FlowKind::Masquerade => "masquerade",
            FlowKind::MasqueradedService => "service+masquerade",
            FlowKind::ExternalClient => "external-client",
            FlowKind::ViaStack => "via-stack",
        }
    }

    /// Whether the destination is a Service.
    #[inline(always)]
    pub const fn is_service(self) -> bool {
        matches!(self, FlowKind::Service | FlowKind::MasqueradedService)
    }

    /// Whether the source becomes the node's address and a port that Sluice allocates.
    #[inline(always)]
    pub const fn is_masqueraded(self) -> bool {
        matches!(self, FlowKind::Masquerade | FlowKind::MasqueradedService)
    }

    /// The kind of the same flow with source translation.
    #[inline(always)]
    pub const fn masqueraded(self) -> FlowKind {
        if self.is_service() { FlowKind::MasqueradedService } else { FlowKind::Masquerade }
    }
}

/// Direction of an entry within its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// The direction of the flow's first packet.
    Forward = 1,
    /// The opposite direction.
    Reply = 2,
}

impl Direction {
    /// The direction with number `n`.
    #[inline(always)]
    pub const fn from_number(n: u8) -> Option<Direction> {
        match n {
            1 => Some(Direction::Forward),
            2 => Some(Direction::Reply),
            _ => None,
        }
    }

    /// The opposite direction.
    #[inline(always)]
    pub const fn reversed(self) -> Direction {
        match self {
            Direction::Forward => Direction::Reply,
            Direction::Reply => Direction::Forward,
        }
    }
}

/// Values of [`FlowEntry::tcp`]: what one direction of a TCP connection has sent so far; 0 if
/// nothing.
pub mod tcp_state {
    /// Only a SYN.
    pub const SYN: u8 = 1;
    /// Data or an ACK.
    pub const OPEN: u8 = 2;
    /// A FIN.
    pub const FIN: u8 = 3;
    /// A RST.
    pub const RESET: u8 = 4;
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_numbers_convert_back_and_unknown_numbers_do_not_convert() {
        for kind in FlowKind::ALL {
            assert_eq!(FlowKind::from_number(kind as u8), Some(kind));
        }
        assert_eq!(FlowKind::from_number(0), None);
        assert_eq!(FlowKind::from_number(FlowKind::ALL.len() as u8 + 1), None);
        assert_eq!(Direction::from_number(0), None);
        assert_eq!(Direction::from_number(3), None);
        for direction in [Direction::Forward, Direction::Reply] {
            assert_eq!(Direction::from_number(direction as u8), Some(direction));
            assert_ne!(direction.reversed(), direction);
        }
    }

    #[test]
    fn reversing_exchanges_source_and_destination() {
        let key = FlowKey {
            src: Addr::v4([10, 0, 0, 1]),
            dst: Addr::v4([10, 0, 0, 2]),
            sport: PortBe::new(1),
            dport: PortBe::new(2),
            proto: 6,
            pad: [0; 3],
        };
        let reversed = key.reversed();
        assert_eq!((reversed.src, reversed.sport), (key.dst, key.dport));
        assert_eq!((reversed.dst, reversed.dport), (key.src, key.sport));
        let mut other = FlowKey::default();
        other.reverse_of(&key);
        assert_eq!(other, reversed);
    }

    #[test]
    fn masquerading_keeps_a_service_flow_a_service_flow() {
        for kind in FlowKind::ALL {
            assert!(kind.masqueraded().is_masqueraded());
            assert_eq!(kind.masqueraded().is_service(), kind.is_service());
        }
    }
}
