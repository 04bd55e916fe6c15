//! Flow and destination of packets from pods and from the node.

use sluice_abi::{Direction, DropReason, FlowKind, LocalPod};
use sluice_packet::l4::Kind;

use crate::{
    config::Node,
    flow::{Flow, FlowState},
    packet::Packet,
    scratch::Scratch,
    stage::{
        class::{self, DestinationClass},
        conntrack::{self, Lookup},
        icmp, masquerade,
        outline::Outlined,
        policy::{self, Ends},
        service,
    },
    verdict::{Bypass, Verdict},
};

/// Finds the flow of a packet from a pod of this node; returns its destination class.
#[inline(always)]
pub fn from_pod<F: Outlined>(
    f: &F,
    s: &mut Scratch,
    node: Node,
) -> Result<DestinationClass, Verdict> {
    s.flow.reset(&s.packet.tuple);
    if s.packet.kind == Kind::IcmpError {
        return error_from_pod(f, s);
    }
    if conntrack::find(&s.packet, &mut s.flow) == Lookup::New {
        return new_from_pod(&s.packet, &mut s.flow, &mut s.pod, node);
    }
    if s.flow.kind == FlowKind::ViaStack && s.flow.direction == Direction::Reply {
        return Ok(DestinationClass::Node);
    }
    Ok(class::of(&s.flow.translated.dst, &mut s.pod))
}

#[inline(always)]
fn new_from_pod(
    packet: &Packet,
    flow: &mut Flow,
    pod: &mut LocalPod,
    node: Node,
) -> Result<DestinationClass, Verdict> {
    let mut class = class::of(&packet.tuple.dst, pod);
    if class.may_be_service()
        && let Some(chosen) = service::choose(packet)?
    {
        flow.translate_to(chosen.id, &chosen.backend);
        class = class::of(&flow.translated.dst, pod);
    }
    masquerade::from_pod(packet, flow, class, node)?;
    if flow.state == FlowState::Untracked && conntrack::reply_tuple_in_use(packet) {
        flow.remember(FlowKind::Direct);
    }
    Ok(class)
}

#[inline(always)]
fn error_from_pod<F: Outlined>(f: &F, s: &mut Scratch) -> Result<DestinationClass, Verdict> {
    let known = icmp::find(f, s);
    let class = class::of(&s.flow.translated.dst, &mut s.pod);
    if !known && class == DestinationClass::Outside {
        return Err(Verdict::Drop(DropReason::NotTracked));
    }
    Ok(class)
}

/// Finds the flow of a packet from the node's stack; returns its destination class. Only packets to
/// Services are handled.
#[inline(always)]
pub fn from_node(s: &mut Scratch) -> Result<DestinationClass, Verdict> {
    s.flow.reset(&s.packet.tuple);
    let class = class::of(&s.packet.tuple.dst, &mut s.pod);
    if !class.may_be_service() || s.packet.kind == Kind::IcmpError {
        return Err(Verdict::Bypass(Bypass::NodeTraffic));
    }
    if conntrack::find(&s.packet, &mut s.flow) == Lookup::New
        && let Some(chosen) = service::choose(&s.packet)?
    {
        s.flow.translate_to(chosen.id, &chosen.backend);
    }
    if !s.flow.kind.is_service() {
        return Err(Verdict::Bypass(Bypass::NodeTraffic));
    }
    Ok(class::of(&s.flow.translated.dst, &mut s.pod))
}

/// Delivers a packet from a pod to the stack without translation.
#[inline(always)]
pub fn to_stack(packet: &Packet) -> Result<Verdict, Verdict> {
    let ends = Ends { source: Some(&packet.tuple.src), destination: None };
    let judged = policy::judge(ends, &packet.tuple, FlowState::Untracked)?;
    Ok(Verdict::to_stack(judged))
}
