//! Both directions of the host end of a pod's veth pair.

use sluice_abi::{DropReason, FlowKind, network_kind};
use sluice_packet::l4::Kind;

use crate::{
    config::{self, Node},
    frame::Skb,
    hook::egress,
    maps,
    packet::Packet,
    scratch::Scratch,
    stage::{
        antispoof,
        conntrack::{self, Lookup},
        forward, fragment, icmp, nat,
        parse::{self, Unparsed},
        policy::{self, Ends},
    },
    verdict::{Bypass, Verdict},
};

/// Packets from a pod.
#[inline(always)]
pub fn from_pod(f: &Skb, s: &mut Scratch) -> Result<Verdict, Verdict> {
    f.set_forwarded(false);
    match parse::frame(f, &mut s.packet, &mut s.headers) {
        Ok(()) => {}
        Err(Unparsed::NotIp) => return Ok(Verdict::Bypass(Bypass::Unparsed)),
        Err(Unparsed::Ipv6) if parse::ipv6_stays_on_link(f) => {
            return Ok(Verdict::Bypass(Bypass::OnLink));
        }
        Err(Unparsed::Ipv6) => return Err(Verdict::Drop(DropReason::Unsupported)),
        Err(Unparsed::Malformed) => return Err(Verdict::Drop(DropReason::Malformed)),
    }
    let node = config::node().ok_or(Verdict::Drop(DropReason::NotReady))?;
    antispoof::require_own_address(&s.packet)?;
    if s.packet.hop_limit <= 1 {
        // The node is the destination, or answers with "time exceeded".
        return egress::to_stack(&s.packet);
    }
    fragment::resolve_ports(&mut s.packet);
    let class = egress::from_pod(f, s, node)?;
    let ends = Ends { source: Some(&s.packet.tuple.src), destination: class.local_pod(&s.flow) };
    let judged = policy::judge(ends, &s.flow.translated, s.flow.state)?;
    conntrack::open(&s.packet, &mut s.flow)?;
    forward::deliver(f, s, node, judged, class)
}

/// Packets from the node's stack to a pod: replies of the node's sockets to translated flows, and
/// packets that the stack forwards, whose replies have to return through it.
#[inline(always)]
pub fn to_pod(f: &Skb, s: &mut Scratch) -> Result<Verdict, Verdict> {
    let Some(node) = config::node() else { return Ok(Verdict::Bypass(Bypass::NotReady)) };
    if parse::frame(f, &mut s.packet, &mut s.headers).is_err() {
        return Ok(Verdict::Bypass(Bypass::Unparsed));
    }
    fragment::resolve_ports(&mut s.packet);
    find_flow_to_pod(f, s, node);
    let ends = Ends { source: None, destination: Some(&s.flow.translated.dst) };
    let judged = policy::judge(ends, &s.flow.translated, s.flow.state)?;
    conntrack::open(&s.packet, &mut s.flow)?;
    if !nat::apply(f, &s.packet, &s.flow, &mut s.headers)? {
        return Ok(Verdict::unchanged(judged));
    }
    forward::store(f, &s.headers)?;
    Ok(Verdict::to_stack(judged))
}

/// Finds the flow of a packet from the node's stack to a pod.
#[inline(always)]
fn find_flow_to_pod(f: &Skb, s: &mut Scratch, node: Node) {
    s.flow.reset(&s.packet.tuple);
    if s.packet.kind == Kind::IcmpError {
        icmp::find(f, s);
    } else if conntrack::find(&s.packet, &mut s.flow) == Lookup::New
        && is_forwarded(&s.packet, node)
    {
        s.flow.remember(FlowKind::ViaStack);
    }
}

/// Whether the stack forwards this packet, that is, the node is not its source.
#[inline(always)]
fn is_forwarded(packet: &Packet, node: Node) -> bool {
    !packet.is_unresolved()
        && packet.tuple.src != node.addr(&packet.tuple.src)
        && maps::network_kind(&packet.tuple.src) != network_kind::THIS_NODE
}
