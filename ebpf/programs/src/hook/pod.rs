//! Both directions of the host end of a pod's veth pair.
//!
//! Only IPv4 and ARP pass: a frame of another protocol, VLAN-tagged ones included, would reach the
//! node's stack without the checks of these programs.

use sluice_abi::program::Hook;
use sluice_abi::{DropReason, FlowKind, PodRef};
use sluice_packet::ip;
use sluice_packet::l4::Kind;

use crate::config::Node;
use crate::flow::{DestinationClass, Flow, FlowState, Origin};
use crate::frame::Skb;
use crate::hook::{Stages, egress, is_forwarded};
use crate::packet::{FragmentState, Packet};
use crate::scratch::Scratch;
use crate::stage::class;
use crate::stage::conntrack::{self, Lookup};
use crate::stage::parse::{self, Unparsed};
use crate::stage::policy::{self, Ends};
use crate::stage::{antispoof, forward, fragment, icmp};
use crate::verdict::{Bypass, Verdict};
use crate::{handover, maps};

/// Packets from a pod.
pub struct FromPod;

impl Stages for FromPod {
    const HOOK: Hook = Hook::FromPod;

    #[inline(always)]
    fn run(f: &Skb, s: &mut Scratch) -> Result<Verdict, Verdict> {
        from_pod(f, s)
    }
}

#[inline(always)]
fn from_pod(f: &Skb, s: &mut Scratch) -> Result<Verdict, Verdict> {
    f.set_forwarded(false);
    match parse::frame(f, &mut s.packet, &mut s.headers) {
        Ok(()) => {}
        Err(Unparsed::Arp) => {
            antispoof::require_own_arp(f, &s.packet, &s.headers)?;
            return Ok(Verdict::Bypass(Bypass::Arp));
        }
        Err(unparsed) => return Err(Verdict::Drop(unparsed.reason())),
    }
    let node = handover::enter(f, Verdict::Drop(DropReason::NotReady))?;
    // Where `route_localnet` is set, the stack would deliver it to services that only the node may use
    // (CVE-2020-8558).
    if ip::is_loopback(&s.packet.tuple.dst) {
        return Err(Verdict::Drop(DropReason::Malformed));
    }
    if s.packet.fragment == FragmentState::First {
        // Its ports become those of later fragments of the same sender.
        antispoof::require_own_address(&s.packet, &s.headers)?;
    }
    fragment::resolve_ports(&mut s.packet);
    let class = egress::from_pod(f, s, node, Origin::Pod)?;
    let ends = Ends { source: s.flow.client, destination: class.local_pod(&s.destination) };
    let judged = policy::judge(s, ends)?;
    if s.packet.hop_limit <= 1 && !is_to_node(&s.packet) {
        // The stack answers with "time exceeded" about the packet as the pod has sent it.
        return Ok(Verdict::to_stack(judged));
    }
    class.require_owner()?;
    conntrack::open(f, &s.packet, &mut s.flow, &s.destination)?;
    forward::deliver(f, s, judged, class)
}

/// Whether a packet is addressed to this node, where its hop limit does not end.
#[inline(always)]
fn is_to_node(packet: &Packet) -> bool {
    class::of_other(&packet.tuple.dst) == DestinationClass::Node
}

/// Packets from the node's stack to a pod: those of the node's sockets, and packets that the stack
/// forwards, whose replies have to return through it.
pub struct ToPod;

impl Stages for ToPod {
    const HOOK: Hook = Hook::ToPod;

    #[inline(always)]
    fn run(f: &Skb, s: &mut Scratch) -> Result<Verdict, Verdict> {
        to_pod(f, s)
    }
}

#[inline(always)]
fn to_pod(f: &Skb, s: &mut Scratch) -> Result<Verdict, Verdict> {
    if f.is_forwarded() {
        f.set_forwarded(false);
        return Ok(Verdict::Bypass(Bypass::Forwarded));
    }
    match parse::frame(f, &mut s.packet, &mut s.headers) {
        Ok(()) => {}
        Err(Unparsed::Arp) => return Ok(Verdict::Bypass(Bypass::Arp)),
        Err(unparsed) => return Err(Verdict::Drop(unparsed.reason())),
    }
    let node = handover::enter(f, Verdict::Drop(DropReason::NotReady))?;
    match maps::local_pod(&s.packet.tuple.dst) {
        Some(pod) if pod.ifindex() == s.packet.ifindex => {
            pod.copy(&mut s.destination.pod);
            s.destination.reference = pod.reference();
        }
        _ => return Err(Verdict::Drop(DropReason::NoSuchPod)),
    }
    fragment::resolve_ports(&mut s.packet);
    find_flow_to_pod(f, s, node)?;
    // The stack may have translated what a pod sends since its own policies were asked.
    let source = if s.flow.is_of_node { PodRef::NONE } else { antispoof::reference(&s.packet) };
    let ends = Ends { source, destination: s.destination.reference };
    let judged = policy::judge(s, ends)?;
    conntrack::open(f, &s.packet, &mut s.flow, &s.destination)?;
    if !forward::translate(f, &s.packet, &s.flow, &mut s.headers)? {
        return Ok(Verdict::unchanged(judged));
    }
    Ok(Verdict::to_stack(judged))
}

/// Finds the flow of a packet from the node's stack to a pod.
#[inline(always)]
fn find_flow_to_pod(f: &Skb, s: &mut Scratch, node: Node) -> Result<(), Verdict> {
    s.flow.reset(&s.packet.tuple, Origin::Stack);
    if s.packet.kind == Kind::IcmpError {
        if !icmp::find(f, s) {
            handover::require_no_flow_elsewhere(f, node)?;
            from_stack(f, &s.packet, &mut s.flow, node);
        }
        return Ok(());
    }
    let pod = s.destination.reference;
    let found =
        conntrack::find(&s.packet, &s.headers, &mut s.entry, &mut s.flow, &mut s.destination);
    if found == Lookup::Known {
        return Ok(());
    }
    handover::require_no_flow_elsewhere(f, node)?;
    s.flow.reset(&s.packet.tuple, Origin::Stack);
    s.flow.is_unknown = found == Lookup::Absent;
    s.destination.reference = pod;
    s.flow.class = DestinationClass::LocalPod;
    s.flow.client = PodRef::NONE;
    from_stack(f, &s.packet, &mut s.flow, node);
    if !s.packet.is_unresolved() {
        s.flow.state = FlowState::New;
    }
    Ok(())
}

/// Sets kind and source class of a packet from the stack. Replies return through it, also where
/// netfilter has translated the packet.
#[inline(always)]
fn from_stack(f: &Skb, packet: &Packet, flow: &mut Flow, node: Node) {
    flow.source_class = DestinationClass::Node;
    flow.is_of_node = !is_forwarded(f, packet, node);
    flow.kind = if flow.is_of_node { FlowKind::Direct } else { FlowKind::ViaStack };
}
