//! The flow of a packet: its translation, and how its packets are delivered.

use sluice_abi::{Backend, Direction, FlowKey, FlowKind, LocalPod, PodRef};

/// Relation of a packet to the flow tables.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowState {
    /// No entry, and none is needed.
    Untracked = 0,
    /// No entry yet; [`crate::stage::conntrack::open`] writes it.
    New = 1,
    /// An entry exists.
    Established = 2,
    /// An ICMP error that quotes a packet with an entry. Its stage has already translated it.
    Related = 3,
}

/// Where a packet enters the programs.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Origin {
    /// The host end of a pod's veth pair: the source is that pod.
    Pod = 0,
    /// The node's stack: the source is the node, or was checked where the packet entered the node.
    Stack = 1,
    /// An uplink: the source is not on this node.
    Netdev = 2,
}

/// One direction of a flow.
#[repr(C)]
pub struct Flow {
    /// The tuple after translation.
    pub translated: FlowKey,
    /// Backend id, or 0.
    pub backend: u32,
    /// `POLICY_EPOCH` before the flow was judged, for [`FlowState::New`].
    pub judged: u32,
    /// The pod of this node that opens the flow, for [`FlowState::New`].
    pub client: PodRef,
    /// Kind.
    pub kind: FlowKind,
    /// Direction of the packet.
    pub direction: Direction,
    /// State.
    pub state: FlowState,
    /// Origin of the packet.
    pub origin: Origin,
    /// Whether the source port in `translated` is tried first; otherwise a port is chosen if the
    /// source is translated.
    pub keeps_port: bool,
    /// Class of the destination after translation.
    pub class: DestinationClass,
    /// Class of the source, for [`FlowState::New`].
    pub source_class: DestinationClass,
    /// Whether a Service flow from the wire keeps its source: traffic policy Local of an external
    /// frontend.
    pub keeps_source: bool,
    /// Whether a process of the node opens the flow, for [`FlowState::New`] and [`FlowState::Untracked`].
    pub is_of_node: bool,
    /// Whether the flow has been judged since the last change of its pods, for
    /// [`FlowState::Established`].
    pub is_judged: bool,
    /// Whether the packet is the first of this tick that finds the alias of its flow. Packets of the other
    /// direction, which do not check where the frontend leads, may have refreshed the main entry.
    pub is_behind: bool,
    /// Whether the packet is mid-stream and to a Service, for [`FlowState::New`]. No backend gets it: any would answer with
    /// a reset, as [`crate::exit`] does, so that the connection ends at once. The one of this flow is for the policies.
    pub is_stray: bool,
    /// Whether no table has an entry with the packet's tuple, for [`FlowState::New`]: nothing is left of an earlier
    /// flow.
    pub is_unknown: bool,
}

/// Class of a destination address. It decides how a packet is delivered. Flow entries contain the
/// numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum DestinationClass {
    /// Outside the cluster.
    Outside = 0,
    /// A pod of this node.
    LocalPod = 1,
    /// An address of this node's pod range that belongs to no pod.
    FreePodAddress = 2,
    /// This node.
    Node = 3,
    /// A pod of another node.
    RemotePod = 4,
    /// Another node.
    OtherNode = 5,
    /// An address of a ServiceCIDR.
    ServiceRange = 6,
    /// An address that is never routed: multicast, broadcast.
    Link = 7,
}

impl DestinationClass {
    /// Whether a frontend can have such an address. External IPs that are pod addresses are not
    /// served.
    #[inline(always)]
    pub fn may_be_service(self) -> bool {
        matches!(
            self,
            DestinationClass::ServiceRange
                | DestinationClass::Outside
                | DestinationClass::Node
                | DestinationClass::OtherNode
        )
    }

    /// Whether packets to such a destination are sent to another host.
    #[inline(always)]
    pub fn leaves_node(self) -> bool {
        matches!(
            self,
            DestinationClass::RemotePod | DestinationClass::OtherNode | DestinationClass::Outside
        )
    }

    /// The class with a number, [`DestinationClass::Outside`] for others.
    #[inline(always)]
    pub fn from_number(n: u8) -> DestinationClass {
        match n {
            1 => DestinationClass::LocalPod,
            2 => DestinationClass::FreePodAddress,
            3 => DestinationClass::Node,
            4 => DestinationClass::RemotePod,
            5 => DestinationClass::OtherNode,
            6 => DestinationClass::ServiceRange,
            7 => DestinationClass::Link,
            _ => DestinationClass::Outside,
        }
    }

    /// The pod that a packet of this class is delivered to, if it is on this node.
    #[inline(always)]
    pub fn local_pod(self, destination: &Destination) -> PodRef {
        if self == DestinationClass::LocalPod { destination.reference } else { PodRef::NONE }
    }
}

/// The destination of a packet, if it is a pod of this node.
#[repr(C)]
pub struct Destination {
    /// The pod.
    pub pod: LocalPod,
    /// Reference to it; [`PodRef::NONE`] for other destinations.
    pub reference: PodRef,
}

impl Flow {
    /// Starts with a packet that needs no entry. Stages that have a reason for an entry change it.
    #[inline(always)]
    pub fn reset(&mut self, tuple: &FlowKey, origin: Origin) {
        *self = Flow {
            translated: *tuple,
            backend: 0,
            judged: 0,
            client: PodRef::NONE,
            kind: FlowKind::Direct,
            direction: Direction::Forward,
            state: FlowState::Untracked,
            origin,
            keeps_port: false,
            class: DestinationClass::Outside,
            source_class: DestinationClass::Outside,
            keeps_source: false,
            is_of_node: false,
            is_judged: false,
            is_behind: false,
            is_stray: false,
            is_unknown: false,
        };
    }

    /// Translates the destination of a new flow to a backend.
    #[inline(always)]
    pub fn translate_to(&mut self, id: u32, backend: &Backend) {
        self.translated.dst = backend.addr;
        self.translated.dport = backend.port;
        self.backend = id;
        self.kind = FlowKind::Service;
        self.state = FlowState::New;
    }

    /// Requests source translation for a new flow.
    #[inline(always)]
    pub fn masquerade(&mut self) {
        self.kind = self.kind.masqueraded();
        self.state = FlowState::New;
    }

    /// Requests an entry for a new flow.
    #[inline(always)]
    pub fn track(&mut self, kind: FlowKind) {
        self.kind = kind;
        self.state = FlowState::New;
    }
}
