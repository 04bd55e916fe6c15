//! Forwarding: translates a packet and chooses where it is sent.

use sluice_abi::DropReason;
use sluice_packet::Headers;
use zerocopy::transmute_ref;

use crate::flow::{DestinationClass, Flow, Origin};
use crate::frame::Frame;
use crate::kernel::Route;
use crate::maps;
use crate::packet::Packet;
use crate::scratch::Scratch;
use crate::stage::nat::Change;
use crate::stage::outline::Outlined;
use crate::stage::policy::Judged;
use crate::stage::{class, nat, next_hop};
use crate::verdict::Verdict;

/// Translates a packet and delivers it by the class of its destination. Packets that the stack has
/// to answer (too long, no route) are passed to it before translation, so that its ICMP error
/// matches the flow as the sender has it, unless it would take them for its own.
#[inline(always)]
pub fn deliver<F: Outlined>(
    f: &F,
    s: &mut Scratch,
    judged: Judged,
    class: DestinationClass,
) -> Result<Verdict, Verdict> {
    let (packet, flow, headers) = (&s.packet, &s.flow, &mut s.headers);
    match class {
        DestinationClass::LocalPod => {
            let pod = &s.destination.pod;
            let change = nat::apply(f, packet, flow, headers)?;
            decrement_hop_limit(packet, headers);
            headers.link.set_addresses(pod.pod_mac, pod.host_mac);
            store(f, headers, change)?;
            Ok(Verdict::to_pod(judged, pod.ifindex))
        }
        DestinationClass::FreePodAddress | DestinationClass::ServiceRange => {
            class.require_owner()?;
            Err(Verdict::Drop(DropReason::TableIncomplete))
        }
        DestinationClass::Node | DestinationClass::Link => {
            translate(f, packet, flow, headers)?;
            Ok(Verdict::to_stack(judged))
        }
        DestinationClass::RemotePod | DestinationClass::OtherNode | DestinationClass::Outside => {
            if hop_limit_ends(packet, flow) {
                return Ok(Verdict::Reject(DropReason::HopLimit));
            }
            match next_hop::find(f, packet, flow, &mut s.next_hop) {
                Route::Found => {}
                Route::TooLong if is_answered_here(packet, flow, headers) => {
                    return Ok(Verdict::Reject(DropReason::TooLong));
                }
                // The stack has judged the length, and has a route: only the translation is missing.
                Route::TooLong | Route::None if flow.origin == Origin::Stack => {
                    translate(f, packet, flow, headers)?;
                    return Ok(Verdict::to_stack(judged));
                }
                Route::None if would_end_at_node(packet, flow) => {
                    return Err(Verdict::Drop(DropReason::NoRoute));
                }
                Route::TooLong | Route::None => return Ok(Verdict::to_stack(judged)),
            }
            let change = nat::apply(f, packet, flow, headers)?;
            decrement_hop_limit(packet, headers);
            store(f, headers, change)?;
            Ok(Verdict::to_uplink(judged))
        }
    }
}

/// Translates a packet that leaves the node from XDP, and writes its link-layer header. Packets that
/// tc or the stack has to handle are left to them, `None`: too long, no route, unknown hardware address.
#[inline(always)]
pub fn out_of_xdp<F: Outlined>(
    f: &F,
    s: &mut Scratch,
    judged: Judged,
) -> Result<Option<Verdict>, Verdict> {
    let (packet, flow, headers, hop) = (&s.packet, &s.flow, &mut s.headers, &mut s.next_hop);
    if next_hop::find(f, packet, flow, hop) != Route::Found || !hop.is_resolved() {
        return Ok(None);
    }
    if hop.ifindex != packet.ifindex && !maps::are_redirectable(packet.ifindex, hop.ifindex) {
        return Ok(None);
    }
    let change = nat::apply(f, packet, flow, headers)?;
    if change == Change::None {
        return Ok(None);
    }
    decrement_hop_limit(packet, headers);
    headers.link.set_addresses(hop.mac, hop.own_mac);
    store(f, headers, change)?;
    Ok(Some(Verdict::to_uplink(judged)))
}

/// Whether a packet that is too long for its route is answered by the programs: the stack does not
/// know the route of a translated destination. It fragments what may be fragmented, and the
/// fragments are translated on their way out, unless they [would end at the node](would_end_at_node).
#[inline(always)]
fn is_answered_here(packet: &Packet, flow: &Flow, headers: &Headers) -> bool {
    flow.translated.dst != packet.tuple.dst
        && (headers.ip.dont_fragment()
            || flow.origin == Origin::Stack
            || would_end_at_node(packet, flow))
}

/// Whether the node's own sockets would receive a packet that leaves the node by its translation, if it were
/// passed to the stack untranslated. Examples are packets to NodePorts and replies to masqueraded flows.
#[inline(always)]
fn would_end_at_node(packet: &Packet, flow: &Flow) -> bool {
    flow.translated.dst != packet.tuple.dst
        && class::of_other(&packet.tuple.dst) == DestinationClass::Node
}

/// Whether the hop limit of a packet that leaves the node ends here. The stack cannot answer it: it does
/// not know the translation. What the stack has sent or forwarded has a hop limit for this hop.
#[inline(always)]
fn hop_limit_ends(packet: &Packet, flow: &Flow) -> bool {
    packet.hop_limit <= 1 && flow.origin != Origin::Stack
}

/// Decrements the hop limit. Packets with a hop limit of 1 come from the stack, or their destination
/// before translation is this node, which delivers them to its pods.
#[inline(always)]
fn decrement_hop_limit(packet: &Packet, headers: &mut Headers) {
    if packet.hop_limit > 1 {
        headers.ip.decrement_hop_limit();
    }
}

/// Translates a packet that keeps its link-layer header and hop limit. Returns whether it has changed.
#[inline(always)]
pub fn translate<F: Outlined>(
    f: &F,
    packet: &Packet,
    flow: &Flow,
    headers: &mut Headers,
) -> Result<bool, Verdict> {
    let change = nat::apply(f, packet, flow, headers)?;
    if change == Change::None {
        return Ok(false);
    }
    store(f, headers, change)?;
    Ok(true)
}

/// Writes the headers into the packet, with the ports if they have changed.
#[inline(always)]
pub fn store<F: Frame>(f: &F, headers: &Headers, change: Change) -> Result<(), Verdict> {
    let bytes: &[u8; Headers::FULL_LEN] = transmute_ref!(headers);
    let stored = if change == Change::HeadersAndPorts {
        bytes.first_chunk::<{ Headers::LEN_WITH_PORTS }>().is_some_and(|bytes| f.store(0, bytes))
    } else {
        bytes.first_chunk::<{ Headers::LEN }>().is_some_and(|bytes| f.store(0, bytes))
    };
    if stored { Ok(()) } else { Err(Verdict::Drop(DropReason::NatFailed)) }
}
