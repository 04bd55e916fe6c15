//! Both directions of the uplink.

use sluice_abi::{NodeConfig, node_flags, proto};
use sluice_packet::{Verdict, l4::Kind, tcp_state};

use crate::{
    config,
    frame::Frame,
    hook::outward,
    maps,
    packet::{Packet, part},
    stage::{
        antispoof, conntrack, forward, fragment, icmp, masquerade, parse, place, place::Place,
        service,
    },
};

/// What comes in from the wire.
#[inline(always)]
pub fn from_netdev(f: &Frame, p: &mut Packet) -> Result<Verdict, Verdict> {
    f.mark_sent(false);
    let Some(node) = config::node() else { return Ok(Verdict::Pass) };
    if !f.is_for_us() || parse::packet(f, p).is_err() {
        return Ok(Verdict::Pass);
    }
    antispoof::not_our_pods(p)?;
    fragment::ports(p);
    let place = inward(f, p, node)?;
    forward::deliver(f, p, node, place)
}

/// Finds the translation and the place of a packet from the wire.
#[inline(always)]
fn inward(f: &Frame, p: &mut Packet, node: &NodeConfig) -> Result<Place, Verdict> {
    let error = p.kind == Kind::IcmpError as u8;
    let known = if error { icmp::translate_back(f, p) } else { conntrack::find(p) };
    let place = place::of(p, node);
    if known {
        return Ok(place);
    }
    match place {
        Place::Pod if p.ttl <= 1 => Err(Verdict::ToStack),
        Place::Pod => {
            if !error {
                remember_stranger(p, node)?;
            }
            Ok(place)
        }
        Place::FreePod => Ok(place),
        Place::Services | Place::Outside if service::choose(p)? => {
            masquerade::stranger(p);
            conntrack::open()?;
            Ok(place::of(p, node))
        }
        Place::Services => Ok(place),
        // Part of a reply to a masqueraded flow, perhaps; if not, the stack will have it in the end.
        Place::Node if p.part == part::UNKNOWN && fragment::may_wait(p) => Err(Verdict::Requeue),
        Place::Node | Place::RemotePod | Place::OtherNode | Place::Outside | Place::Link => {
            Err(Verdict::Pass)
        }
    }
}

/// Somebody outside talks to a pod's own address (a route leads here): the pod's answers must not
/// be masqueraded, so the flow is remembered as it is.
#[inline(always)]
fn remember_stranger(p: &mut Packet, node: &NodeConfig) -> Result<(), Verdict> {
    let opens = p.key.proto != proto::TCP || tcp_state::opens(p.tcp_flags);
    if node.flags & node_flags::MASQUERADE == 0
        || !opens
        || p.part == part::UNKNOWN
        || p.key.src == node.addr(&p.key.src)
        || maps::network_kind(&p.key.src) != sluice_abi::network_kind::OUTSIDE
    {
        return Ok(());
    }
    conntrack::open()
}

/// What leaves by the uplink: packets of this node to Services that no socket program translated,
/// and packets of pods that went through the stack.
#[inline(always)]
pub fn to_netdev(f: &Frame, p: &mut Packet) -> Result<Verdict, Verdict> {
    if f.is_sent_by_us() {
        f.mark_sent(false);
        return Ok(Verdict::Pass);
    }
    let Some(node) = config::node() else { return Ok(Verdict::Pass) };
    if parse::packet(f, p).is_err() {
        return Ok(Verdict::Pass);
    }
    fragment::ports(p);
    let place = if maps::local_pod(&p.key.src).is_some() {
        outward::from_pod(f, p, node)?
    } else {
        outward::from_node(p, node)?
    };
    forward::deliver(f, p, node, place)
}
