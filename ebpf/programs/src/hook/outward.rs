//! Where a pod's packet goes: Service, masquerade, place.

use sluice_abi::{DropReason, NodeConfig, flow_flags};
use sluice_packet::{Verdict, l4::Kind};

use crate::{
    frame::Frame,
    packet::Packet,
    stage::{conntrack, icmp, masquerade, place, place::Place, service},
};

/// Finds the translation and the place of a packet from a pod of this node.
#[inline(always)]
pub fn from_pod(f: &Frame, p: &mut Packet, node: &NodeConfig) -> Result<Place, Verdict> {
    if p.kind == Kind::IcmpError as u8 {
        let known = icmp::translate_back(f, p);
        let place = place::of(p, node);
        return if !known && matches!(place, Place::Outside) {
            Err(Verdict::Drop(DropReason::NotTracked))
        } else {
            Ok(place)
        };
    }
    let known = conntrack::find(p);
    if known
        && p.flow_flags & (flow_flags::VIA_STACK | flow_flags::FORWARD) == flow_flags::VIA_STACK
    {
        return Ok(Place::Node);
    }
    let mut place = place::of(p, node);
    if !known {
        if place.may_be_service() && service::choose(p)? {
            place = place::of(p, node);
        }
        masquerade::pod(p, node, place)?;
        if p.translate != 0 || conntrack::answers_are_anothers(p) {
            conntrack::open()?;
        }
    }
    Ok(place)
}

/// The same for a packet of this node's own stack: only what goes to a Service is ours.
#[inline(always)]
pub fn from_node(p: &mut Packet, node: &NodeConfig) -> Result<Place, Verdict> {
    let place = place::of(p, node);
    if !place.may_be_service() || p.kind == Kind::IcmpError as u8 {
        return Err(Verdict::Pass);
    }
    if !conntrack::find(p) {
        if !service::choose(p)? {
            return Err(Verdict::Pass);
        }
        conntrack::open()?;
    }
    if p.flow_flags & flow_flags::DNAT == 0 {
        return Err(Verdict::Pass);
    }
    Ok(place::of(p, node))
}
