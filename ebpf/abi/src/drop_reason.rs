//! Drop reasons and outcomes: the list of everything that can happen to a packet.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $n:literal $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[doc = $doc])+ $variant = $n,)+ }

        impl $name {
            /// Every value, in order of its number.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The label in metrics, events and the command line.
            pub const fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)+ }
            }

            /// One line of help text.
            pub const fn help(self) -> &'static str {
                match self { $($name::$variant => concat!($($doc,)+),)+ }
            }

            /// The value with number `n`, if there is one.
            pub const fn from_number(n: u8) -> Option<$name> {
                match n { $($n => Some($name::$variant),)+ _ => None }
            }
        }
    };
}

numbered! {
    /// Why a packet was dropped or rejected. Numbers are never reused.
    DropReason {
        /// The source address does not belong to the pod that sent it.
        Spoofed = 1 "spoofed_source",
        /// The packet is truncated, its headers contradict each other, or it was sent to a loopback address.
        Malformed = 2 "malformed",
        /// The agent has not written the node's tables yet.
        NotReady = 3 "not_ready",
        /// A Service port without a usable endpoint; the packet was rejected.
        NoEndpoint = 4 "no_endpoint",
        /// A Service address without that port or protocol; the packet was rejected.
        UnknownServicePort = 5 "unknown_service_port",
        /// Traffic policy Local, and all endpoints are on other nodes.
        NoLocalEndpoint = 6 "no_local_endpoint",
        /// An address of this node's pod range that belongs to no pod.
        NoSuchPod = 7 "no_such_pod",
        /// An address of the Service range that belongs to no Service.
        NoSuchService = 8 "no_such_service",
        /// A fragment of a translated flow whose first fragment did not arrive.
        FragmentUnknown = 9 "fragment_unknown",
        /// No free port for source translation.
        NoSnatPort = 10 "no_snat_port",
        /// The flow tables rejected an entry.
        ConntrackFull = 11 "conntrack_full",
        /// A mid-stream packet, echo reply or ICMP error of a translated flow without an entry.
        NotTracked = 12 "not_tracked",
        /// A header could not be rewritten.
        NatFailed = 13 "nat_failed",
        /// A frontend refers to a Service port, slot or backend that does not exist.
        TableIncomplete = 14 "table_incomplete",
        /// A protocol or address family that Sluice does not support.
        Unsupported = 15 "unsupported",
        /// The pod has opened too many flows without an answer.
        TooManyNewFlows = 16 "too_many_new_flows",
        /// A translated packet that is longer than the MTU of its route; the sender was informed.
        TooLong = 17 "too_long",
        /// A load balancer's address, and a client outside the source ranges of the Service.
        SourceNotAllowed = 18 "source_not_allowed",
        /// The hop limit of a packet that leaves the node again ended here; the sender was informed.
        HopLimit = 19 "hop_limit",
        /// A NetworkPolicy of the source does not allow the flow.
        PolicyEgress = 20 "policy_egress",
        /// A NetworkPolicy of the destination does not allow the flow.
        PolicyIngress = 21 "policy_ingress",
        /// The agent has not written the policies of a pod yet, and its namespace may have some.
        PolicyPending = 22 "policy_pending",
        /// A translated packet without a route, to an address of the node, whose sockets would get it untranslated.
        NoRoute = 23 "no_route",
    }
}

numbered! {
    /// What happened to a packet that was not dropped.
    Outcome {
        /// Delivered to a pod on this node.
        ToPod = 1 "to_pod",
        /// Sent by a device to another host, from tc.
        ToUplink = 2 "to_uplink",
        /// Passed to the node's stack.
        ToStack = 3 "to_stack",
        /// Answered with an ICMP error or a TCP reset.
        Rejected = 4 "rejected",
        /// Destination translated from a Service to a backend.
        Translated = 5 "translated",
        /// Source translated to an address of the node.
        Masqueraded = 6 "masqueraded",
        /// Translation reversed for a reply or an ICMP error.
        Restored = 7 "restored",
        /// Sent by a device to another host from XDP, before the kernel has allocated memory for it.
        ToUplinkByXdp = 8 "to_uplink_by_xdp",
        /// Not a packet: a datagram socket that was translated in connect(2), and that `UDP_SOCKETS` has no entry
        /// for.
        SocketNotRecorded = 9 "socket_not_recorded",
        /// Not answered with the error that its drop reason calls for: other hosts had got as many as they may.
        ErrorLimited = 10 "error_limited",
        /// Dropped by a policy, without a known flow, although it opens none: a TCP segment other than a SYN, or an echo
        /// reply.
        MidStream = 11 "policy_mid_stream",
    }
}

numbered! {
    /// Why a dropped packet has no [`crate::DropEvent`]. Its [`DropReason`] is counted as that of any other.
    EventLoss {
        /// The CPU had dropped more than 100 packets within 100 ms, and earlier ones had the flow, source, destination
        /// and reason of this one, by their hashes.
        RateLimit = 1 "rate_limit",
        /// The ring buffer was full.
        BufferFull = 2 "buffer_full",
    }
}

/// Value of `COUNTERS`, one per CPU. Index: a [`DropReason`]'s number, 128 plus an [`Outcome`]'s number, or 192
/// plus an [`EventLoss`]'s number.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, link layer included.
    pub bytes: u64,
}

impl DropReason {
    /// Index in `COUNTERS`.
    #[inline(always)]
    pub const fn counter_index(self) -> u32 {
        self as u32
    }
}

impl Outcome {
    /// Index in `COUNTERS`.
    #[inline(always)]
    pub const fn counter_index(self) -> u32 {
        128 + self as u32
    }
}

impl EventLoss {
    /// Index in `COUNTERS`.
    #[inline(always)]
    pub const fn counter_index(self) -> u32 {
        192 + self as u32
    }
}
