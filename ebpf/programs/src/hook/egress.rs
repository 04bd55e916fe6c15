//! Flow and destination of packets from pods and from the node.

use sluice_abi::{DropReason, FlowKind};
use sluice_packet::l4::Kind;

use crate::config::Node;
use crate::flow::{DestinationClass, FlowState, Origin};
use crate::handover;
use crate::hook::is_forwarded;
use crate::scratch::Scratch;
use crate::stage::class;
use crate::stage::conntrack::{self, Lookup};
use crate::stage::outline::Outlined;
use crate::stage::{antispoof, fragment, icmp, masquerade, service};
use crate::verdict::{Bypass, Verdict};

/// Finds the flow of a packet from a pod of this node; returns its destination class. With
/// [`Origin::Pod`], the packet comes from the device of the hook, and its source is checked.
#[inline(always)]
pub fn from_pod<F: Outlined>(
    f: &F,
    s: &mut Scratch,
    node: Node,
    origin: Origin,
) -> Result<DestinationClass, Verdict> {
    s.flow.reset(&s.packet.tuple, origin);
    if s.packet.kind == Kind::IcmpError {
        s.flow.client = if origin == Origin::Pod {
            antispoof::require_own_address(&s.packet, &s.headers)?
        } else {
            antispoof::reference(&s.packet)
        };
        return error_from_pod(f, s, node);
    }
    let found =
        conntrack::find(&s.packet, &s.headers, &mut s.entry, &mut s.flow, &mut s.destination);
    match found {
        Lookup::Known => return Ok(s.flow.class),
        Lookup::Spoofed => return Err(Verdict::Drop(DropReason::Spoofed)),
        Lookup::New | Lookup::Absent | Lookup::Held => {}
    }
    handover::require_no_flow_elsewhere(f, node)?;
    s.flow.reset(&s.packet.tuple, origin);
    s.flow.is_unknown = found == Lookup::Absent;
    s.flow.client = if origin == Origin::Pod {
        antispoof::require_own_address(&s.packet, &s.headers)?
    } else {
        antispoof::reference(&s.packet)
    };
    s.flow.source_class = DestinationClass::LocalPod;
    new_from_pod(f, s, node)
}

#[inline(always)]
fn new_from_pod<F: Outlined>(
    f: &F,
    s: &mut Scratch,
    node: Node,
) -> Result<DestinationClass, Verdict> {
    let (packet, flow, destination) = (&s.packet, &mut s.flow, &mut s.destination);
    flow.class = class::of(&packet.tuple.dst, destination);
    if service::translate(f, packet, flow, &mut s.chosen)? {
        flow.class = class::of(&flow.translated.dst, destination);
    } else if fragment::may_be_translated(packet, &destination.reference) {
        return Err(fragment::wait(packet));
    }
    masquerade::from_pod(f, packet, flow, flow.class, node, &mut s.next_hop)?;
    if flow.state == FlowState::Untracked
        && flow.class != DestinationClass::Link
        && !packet.is_unresolved()
    {
        flow.track(FlowKind::Direct);
    }
    Ok(flow.class)
}

/// Whether the pod that sends an error is an end of the flow that it is about.
#[inline(always)]
fn is_of_its_pod(s: &Scratch) -> bool {
    s.quoted.entry.client == s.flow.client || s.quoted.entry.server == s.flow.client
}

/// An error of a pod about one of its flows.
#[inline(always)]
fn error_from_pod<F: Outlined>(
    f: &F,
    s: &mut Scratch,
    node: Node,
) -> Result<DestinationClass, Verdict> {
    let is_known = icmp::find(f, s);
    if !is_known {
        handover::require_no_flow_elsewhere(f, node)?;
    }
    // A pod is not a router: it reports about flows of its own.
    if !is_known || !is_of_its_pod(s) {
        return Err(Verdict::Drop(DropReason::NotTracked));
    }
    s.flow.class = class::of(&s.flow.translated.dst, &mut s.destination);
    Ok(s.flow.class)
}

/// Finds the flow of a packet from the node's stack; returns its destination class. Only packets to
/// Services, replies of backends on the node itself, replies to clients whose port was translated, and those
/// of protocols without ports whose tuple a pod's flow has, are handled.
#[inline(always)]
pub fn from_node<F: Outlined>(
    f: &F,
    s: &mut Scratch,
    node: Node,
) -> Result<DestinationClass, Verdict> {
    s.flow.reset(&s.packet.tuple, Origin::Stack);
    let class = class::of(&s.packet.tuple.dst, &mut s.destination);
    if class == DestinationClass::Link {
        return Err(Verdict::Bypass(Bypass::NodeTraffic));
    }
    if s.packet.kind == Kind::IcmpError {
        return error_from_node(f, s, node, class);
    }
    let found =
        conntrack::find(&s.packet, &s.headers, &mut s.entry, &mut s.flow, &mut s.destination);
    if found == Lookup::Known {
        return if s.flow.kind.is_service() || s.flow.translated != s.packet.tuple {
            require_other_host(s)
        } else {
            Err(Verdict::Bypass(Bypass::NodeTraffic))
        };
    }
    handover::require_no_flow_elsewhere(f, node)?;
    s.flow.reset(&s.packet.tuple, Origin::Stack);
    s.flow.is_unknown = found == Lookup::Absent;
    s.flow.class = class;
    s.flow.source_class = DestinationClass::Node;
    s.flow.is_of_node = !is_forwarded(f, &s.packet, node);
    if !service::translate(f, &s.packet, &mut s.flow, &mut s.chosen)? {
        if found == Lookup::Held && s.packet.kind == Kind::Other {
            // Of a tunnel of the node, also if it carries what others sent. Its flow keeps the tuple from pods; without an
            // entry, the packet passes as well.
            conntrack::displace(&s.packet);
            s.flow.track(FlowKind::Direct);
            let _ = conntrack::open(f, &s.packet, &mut s.flow, &s.destination);
        }
        return Err(Verdict::Bypass(Bypass::NodeTraffic));
    }
    s.flow.class = class::of(&s.flow.translated.dst, &mut s.destination);
    require_other_host(s)?;
    masquerade::from_node(f, &s.packet, &mut s.flow, &mut s.next_hop);
    Ok(s.flow.class)
}

/// Rejects packets that the stack sends to another host and whose backend is on the node itself: they
/// cannot return to the stack, and would leave the node with an address of it as destination.
#[inline(always)]
fn require_other_host(s: &Scratch) -> Result<DestinationClass, Verdict> {
    if s.flow.class == DestinationClass::Node && s.flow.translated.dst != s.packet.tuple.dst {
        return Err(Verdict::Reject(DropReason::NoEndpoint));
    }
    Ok(s.flow.class)
}

/// An error of the node about a Service flow, one of whose backends is on the node itself. Others are
/// left as they are.
#[inline(always)]
fn error_from_node<F: Outlined>(
    f: &F,
    s: &mut Scratch,
    node: Node,
    class: DestinationClass,
) -> Result<DestinationClass, Verdict> {
    if !icmp::find(f, s) {
        handover::require_no_flow_elsewhere(f, node)?;
        return Err(Verdict::Bypass(Bypass::NodeTraffic));
    }
    if s.quoted.original == s.quoted.sent {
        return Err(Verdict::Bypass(Bypass::NodeTraffic));
    }
    s.flow.class = class;
    Ok(class)
}
