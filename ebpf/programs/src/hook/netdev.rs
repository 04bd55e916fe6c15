//! Both directions of the uplink.

use sluice_abi::PodRef;
use sluice_abi::program::Hook;

use crate::flow::{DestinationClass, Flow, Origin};
use crate::frame::Skb;
use crate::hook::{Stages, egress, ingress};
use crate::packet::Packet;
use crate::scratch::Scratch;
use crate::stage::policy::{self, Ends};
use crate::stage::{conntrack, forward, fragment, parse};
use crate::verdict::{Bypass, Verdict};
use crate::{handover, maps};

/// Packets from the uplink.
pub struct FromNetdev;

impl Stages for FromNetdev {
    const HOOK: Hook = Hook::FromNetdev;

    #[inline(always)]
    fn run(f: &Skb, s: &mut Scratch) -> Result<Verdict, Verdict> {
        from_netdev(f, s)
    }
}

#[inline(always)]
fn from_netdev(f: &Skb, s: &mut Scratch) -> Result<Verdict, Verdict> {
    f.set_forwarded(false);
    let node = handover::enter(f, Verdict::Bypass(Bypass::NotReady))?;
    if f.is_for_other_host() {
        return Ok(Verdict::Bypass(Bypass::NotForHost));
    }
    if parse::frame(f, &mut s.packet, &mut s.headers).is_err() {
        return Ok(Verdict::Bypass(Bypass::Unparsed));
    }
    if !f.is_for_host() {
        // Broadcast or multicast: left to the stack, which also accepts unicast packets in such frames.
        ingress::require_no_loopback(&s.packet)?;
        return Ok(Verdict::Bypass(Bypass::NotForHost));
    }
    let class = ingress::from_netdev(f, s, node)?;
    let ends = Ends { source: PodRef::NONE, destination: class.local_pod(&s.destination) };
    let judged = policy::judge(s, ends)?;
    if ends_at_node(&s.packet, &s.flow, class) {
        return Ok(Verdict::to_stack(judged));
    }
    class.require_owner()?;
    conntrack::open(f, &s.packet, &mut s.flow, &s.destination)?;
    forward::deliver(f, s, judged, class)
}

/// Whether the hop limit of a packet to a pod ends here, so that the stack answers it with "time
/// exceeded". Packets of translated flows are delivered instead: the stack cannot translate its
/// answer.
#[inline(always)]
fn ends_at_node(packet: &Packet, flow: &Flow, class: DestinationClass) -> bool {
    packet.hop_limit <= 1 && flow.translated == packet.tuple && class == DestinationClass::LocalPod
}

/// Packets to the uplink: those of the node to Services that no socket program has translated, and
/// those of pods that the stack has forwarded.
pub struct ToNetdev;

impl Stages for ToNetdev {
    const HOOK: Hook = Hook::ToNetdev;

    #[inline(always)]
    fn run(f: &Skb, s: &mut Scratch) -> Result<Verdict, Verdict> {
        to_netdev(f, s)
    }
}

#[inline(always)]
fn to_netdev(f: &Skb, s: &mut Scratch) -> Result<Verdict, Verdict> {
    if f.is_forwarded() {
        f.set_forwarded(false);
        return Ok(Verdict::Bypass(Bypass::Forwarded));
    }
    let node = handover::enter(f, Verdict::Bypass(Bypass::NotReady))?;
    if parse::frame(f, &mut s.packet, &mut s.headers).is_err() {
        return Ok(Verdict::Bypass(Bypass::Unparsed));
    }
    fragment::resolve_ports(&mut s.packet);
    let from_pod = maps::local_pod(&s.packet.tuple.src).is_some();
    let class = if from_pod {
        egress::from_pod(f, s, node, Origin::Stack)?
    } else {
        egress::from_node(f, s, node)?
    };
    let source = if from_pod { s.flow.client } else { PodRef::NONE };
    let ends = Ends { source, destination: class.local_pod(&s.destination) };
    let judged = policy::judge(s, ends)?;
    class.require_owner()?;
    conntrack::open(f, &s.packet, &mut s.flow, &s.destination)?;
    forward::deliver(f, s, judged, class)
}
