//! Both directions of the host end of a pod's veth pair.

use sluice_abi::DropReason;
use sluice_packet::{Verdict, l4::Kind};

use crate::{
    config,
    frame::Frame,
    hook::outward,
    packet::Packet,
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

/// What the node's stack sends to a pod: replies of its own sockets to flows that we translated.
#[inline(always)]
pub fn to_pod(f: &Frame, p: &mut Packet) -> Result<Verdict, Verdict> {
    if config::node().is_none() || parse::packet(f, p).is_err() {
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
    if conntrack::find(p) && p.translate != 0 {
        nat::apply(f, p)?;
        forward::store(f, p)?;
        return Ok(Verdict::ToStack);
    }
    Ok(Verdict::Pass)
}
