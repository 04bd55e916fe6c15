//! Flows.
//!
//! ```text
//! main entry    key = tuple after translation, ends sorted     both directions, one lookup
//! alias entry   key = tuple before translation, ends sorted    only of a translated flow
//! ```
//! A main entry holds both tuples in the direction of the flow's first packet; an alias leads a
//! packet before translation to it. Each can rebuild the other. Destination translation, source
//! translation, both and neither have the same representation.
//!
//! ```text
//! first packet --> FLOWS_NEW_POD or FLOWS_NEW_WIRE (LRU) --reply--> FLOWS --both sides closed--> LRU
//! ```
//! `FLOWS` never evicts an entry: a flood of flows without replies evicts only others like it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Addr, PodRef, PortBe, map, proto};

/// Nanoseconds of a tick, the unit of time in flow entries, as a power of two: 1.07 s.
const TICK_SHIFT: u32 = 30;

/// The tick of a time of `bpf_ktime_get_coarse_ns` (`CLOCK_MONOTONIC`): flows do not age while the
/// machine is suspended.
#[inline(always)]
pub const fn tick(monotonic_ns: u64) -> u32 {
    (monotonic_ns >> TICK_SHIFT) as u32
}

/// The number of ticks that last at least `seconds`.
#[inline(always)]
pub const fn ticks(seconds: u32) -> u32 {
    ((seconds as u64 * 1_000_000_000) >> TICK_SHIFT) as u32 + 1
}

/// Seconds of a number of ticks, rounded down.
pub const fn tick_seconds(ticks: u32) -> u32 {
    (((ticks as u64) << TICK_SHIFT) / 1_000_000_000) as u32
}

/// The tuple of one direction of a flow, as its packets arrive at a hook; with sorted ends, a key of
/// the flow tables.
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
    /// 1 in the key of an alias whose tuple is the main key of another flow: a client port is used
    /// for a Service and, directly, for the backend that was chosen. Such a key is not sorted.
    /// Otherwise 0.
    pub shadow: u8,
    /// Zero.
    pub pad: [u8; 2],
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
            shadow: self.shadow,
            pad: [0; 2],
        }
    }

    /// Whether packets with this tuple and the other travel in opposite directions of one flow.
    #[inline(always)]
    pub fn is_reverse_of(&self, other: &FlowKey) -> bool {
        self.src == other.dst
            && self.dst == other.src
            && self.sport == other.dport
            && self.dport == other.sport
            && self.proto == other.proto
    }

    /// Whether the ends have to be exchanged to be sorted.
    #[inline(always)]
    const fn is_unsorted(&self) -> bool {
        let (src, dst) = (halves(&self.src), halves(&self.dst));
        // The low half first: it differs between almost all addresses.
        if src[1] != dst[1] {
            return src[1] > dst[1];
        }
        if src[0] != dst[0] {
            return src[0] > dst[0];
        }
        self.sport.get() > self.dport.get()
    }

    /// The key of the flow tables: this tuple, with its ends in an order that is the same for both
    /// directions.
    #[inline(always)]
    pub const fn sorted(&self) -> FlowKey {
        if self.is_unsorted() { self.reversed() } else { *self }
    }

    /// Sets this tuple to the opposite direction of another one.
    #[inline(always)]
    pub const fn reverse_of(&mut self, other: &FlowKey) {
        self.src = other.dst;
        self.dst = other.src;
        self.sport = other.dport;
        self.dport = other.sport;
        self.proto = other.proto;
        self.shadow = other.shadow;
        self.pad = other.pad;
    }

    /// Sets this key to the [sorted](FlowKey::sorted) form of a tuple.
    #[inline(always)]
    pub const fn sort(&mut self, tuple: &FlowKey) {
        if tuple.is_unsorted() {
            self.reverse_of(tuple);
        } else {
            *self = *tuple;
        }
    }

    /// The key of an alias whose tuple is the main key of another flow.
    #[inline(always)]
    pub const fn shadowed(&self) -> FlowKey {
        FlowKey { shadow: 1, ..*self }
    }
}

/// The halves of an address as integers, in the order of memory.
#[inline(always)]
const fn halves(a: &Addr) -> [u64; 2] {
    let b = &a.0;
    [
        u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
        u64::from_ne_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
    ]
}

/// Value of the flow tables.
///
/// Programs copy an entry and compare its tuple with the packet's before they use it: the kernel
/// reuses the memory of a removed entry at once.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FlowEntry {
    /// [`tick`] of the last packet, at most one tick late. Alias: of the last one before translation.
    #[cfg(feature = "abi-next")]
    pub seen: u32,
    /// Zero.
    #[cfg(feature = "abi-next")]
    pub pad: u32,
    /// The tuple of the key, in the direction of the flow's first packet.
    pub tuple: FlowKey,
    /// Main entry: the tuple before translation; equal to `tuple` if nothing is translated. Alias:
    /// the tuple after translation.
    pub other: FlowKey,
    /// [`tick`] of the last packet, at most one tick late. Alias: of the last one before translation.
    #[cfg(not(feature = "abi-next"))]
    pub seen: u32,
    /// Backend id of a Service flow, 0 otherwise.
    pub backend: u32,
    /// The pod that sent the first packet, if it is on this node.
    pub client: PodRef,
    /// The pod that received the first packet, if it is on this node.
    pub server: PodRef,
    /// Low 16 bits of the [`tick`] of the first packet.
    pub since: u16,
    /// One of [`tcp_state`] per [`Direction`]: what the client and what the server have sent; 0 for
    /// other protocols.
    pub tcp: [u8; 2],
    /// Destination class of packets per [`Direction`], as the programs number it, for ends that are
    /// not pods of this node.
    pub classes: [u8; 2],
    /// A [`FlowKind`]'s number.
    pub kind: u8,
    /// Bits of [`flow_flags`].
    pub flags: u8,
    /// `POLICY_EPOCH` before the flow was judged.
    pub judged: u32,
    /// Zero.
    #[cfg(not(feature = "abi-next"))]
    pub pad: u32,
}

const _: () = assert!(size_of::<FlowEntry>() == 112);

/// Bits of [`FlowEntry::flags`].
pub mod flow_flags {
    /// An alias entry.
    pub const ALIAS: u8 = 1;
    /// The server has replied.
    pub const REPLIED: u8 = 2;
    /// The flow has replied over more than two ticks: a UDP flow that is not a single exchange.
    pub const STREAM: u8 = 4;
    /// A process of the node has opened the flow.
    pub const OF_NODE: u8 = 8;
    /// The flow is answered, could not be confirmed, and is counted as such.
    pub const UNCONFIRMED: u8 = 16;
}

impl FlowEntry {
    /// Result of [`FlowEntry::account`] for flows that are not counted: `POD_FLOWS` has no such index.
    pub const NOT_COUNTED: u32 = u32::MAX;

    /// The kind of the flow, or `None` for a number that this version does not define.
    #[inline(always)]
    pub const fn kind(&self) -> Option<FlowKind> {
        FlowKind::from_number(self.kind)
    }

    /// Whether this is an alias entry.
    #[inline(always)]
    pub const fn is_alias(&self) -> bool {
        self.flags & flow_flags::ALIAS != 0
    }

    /// Whether the server has replied.
    #[inline(always)]
    pub const fn is_replied(&self) -> bool {
        self.flags & flow_flags::REPLIED != 0
    }

    /// Whether addresses or ports are translated.
    #[inline(always)]
    pub fn is_translated(&self) -> bool {
        self.tuple != self.other
    }

    /// The pod of this node that is accountable for the flow: the client, or else the server.
    #[inline(always)]
    pub const fn owner(&self) -> PodRef {
        if self.client.is_none() { self.server } else { self.client }
    }

    /// The index in `POD_FLOWS` that the flow counts for: that of its [owner](FlowEntry::owner), or
    /// [`FLOWS_WITHOUT_POD`](map::FLOWS_WITHOUT_POD); [`FlowEntry::NOT_COUNTED`] for TCP without an owner. Forged
    /// senders keep no connection confirmed: a wrong ACK is answered with a RST, which ends it.
    #[inline(always)]
    pub const fn account(&self) -> u32 {
        let owner = self.owner();
        if !owner.is_none() {
            owner.index as u32
        } else if self.tuple.proto == proto::TCP {
            FlowEntry::NOT_COUNTED
        } else {
            map::FLOWS_WITHOUT_POD
        }
    }
}

/// How a flow is translated, and how its replies are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FlowKind {
    /// Neither to a Service nor masqueraded. The source port is translated if another flow that is
    /// still alive has the tuple.
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

/// Direction of a packet within its flow; the number is the index in per-direction arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// The direction of the flow's first packet.
    Forward = 0,
    /// The opposite direction.
    Reply = 1,
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

#[cfg(test)]
mod tests;
