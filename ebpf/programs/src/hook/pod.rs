//! Both directions of the host end of a pod's veth pair.

use sluice_abi::{DropReason, NodeConfig, flow_flags, network_kind};
use sluice_packet::{Verdict, l4::Kind};

use crate::{
    config,
    frame::Frame,
    hook::outward,
    maps,
    packet::{Packet, part},
    stage::{
        antispoof, conntrack, forward, fragment, icmp, nat,
        parse::{self, Unparsed},
    },
};

/// What a pod sends.
#[inline(always)]
pub fn from_pod(f: &Frame, p: &mut Packet) -> Result<Verdict, Verdict> {
    f.mark_sent(false);
    match parse::packet(f, p) {
        Ok(()) => {}
        Err(Unparsed::NotIp) => return Ok(Verdict::Pass),
        Err(Unparsed::Ipv6) if parse::ipv6_stays_on_link(f) => return Ok(Verdict::Pass),
        Err(Unparsed::Ipv6) => return Err(Verdict::Drop(DropReason::Unsupported)),
        Err(Unparsed::Malformed) => return Err(Verdict::Drop(DropReason::Malformed)),
    }
    let node = config::node().ok_or(Verdict::Drop(DropReason::NotReady))?;
    antispoof::own_address(p)?;
    if p.ttl <= 1 {
        // The node is a hop: it answers, or it is the destination.
        return Ok(Verdict::ToStack);
    }
    fragment::ports(p);
    let place = outward::from_pod(f, p, node)?;
    forward::deliver(f, p, node, place)
}

/// What the node's stack sends to a pod: replies of its own sockets to flows that we translated,
/// and what it forwards for others, whose answers have to find back to it.
#[inline(always)]
pub fn to_pod(f: &Frame, p: &mut Packet) -> Result<Verdict, Verdict> {
    let Some(node) = config::node() else { return Ok(Verdict::Pass) };
    if parse::packet(f, p).is_err() {
        return Ok(Verdict::Pass);
    }
    fragment::ports(p);
    if p.kind == Kind::IcmpError as u8 {
        if icmp::translate_back(f, p) {
            forward::store(f, p)?;
            return Ok(Verdict::ToStack);
        }
        return Ok(Verdict::Pass);
    }
    if !conntrack::find(p) && forwarded(p, node) {
        p.flow_flags = flow_flags::VIA_STACK;
        conntrack::open()?;
    }
    if p.translate == 0 {
        return Ok(Verdict::Pass);
    }
    nat::apply(f, p)?;
    forward::store(f, p)?;
    Ok(Verdict::ToStack)
}

/// Whether the stack carries this packet for somebody else.
#[inline(always)]
fn forwarded(p: &Packet, node: &NodeConfig) -> bool {
    p.part != part::UNKNOWN
        && p.key.src != node.addr(&p.key.src)
        && maps::network_kind(&p.key.src) != network_kind::THIS_NODE
}
