//! Forwarding: translates a packet and chooses where it is sent.

use sluice_abi::DropReason;
use sluice_packet::Headers;
use zerocopy::transmute_ref;

use crate::{
    config::Node,
    frame::Frame,
    packet::Packet,
    scratch::Scratch,
    stage::{class::DestinationClass, nat, outline::Outlined, policy::Judged},
    verdict::Verdict,
};

/// Translates a packet and delivers it by the class of its destination. Packets that the stack has
/// to answer (too long, no route) are passed to it before translation, so that its ICMP error
/// matches the flow as the sender has it.
#[inline(always)]
pub fn deliver<F: Outlined>(
    f: &F,
    s: &mut Scratch,
    node: Node,
    judged: Judged,
    class: DestinationClass,
) -> Result<Verdict, Verdict> {
    let (packet, flow, headers) = (&s.packet, &s.flow, &mut s.headers);
    match class {
        DestinationClass::LocalPod => {
            let pod = &s.destination.pod;
            nat::apply(f, packet, flow, headers)?;
            decrement_hop_limit(packet, headers);
            headers.link.set_addresses(pod.pod_mac, pod.host_mac);
            store(f, headers)?;
            Ok(Verdict::to_pod(judged, pod.ifindex))
        }
        DestinationClass::FreePodAddress | DestinationClass::ServiceRange => {
            class.require_owner()?;
            Err(Verdict::Drop(DropReason::TableIncomplete))
        }
        DestinationClass::Node | DestinationClass::Link => {
            if nat::apply(f, packet, flow, headers)? {
                store(f, headers)?;
            }
            Ok(Verdict::to_stack(judged))
        }
        DestinationClass::RemotePod | DestinationClass::OtherNode | DestinationClass::Outside => {
            if packet.wire_len > node.mtu() {
                return Ok(Verdict::to_stack(judged));
            }
            if !f.route(packet, &flow.translated, &mut s.next_hop) {
                return Ok(Verdict::to_stack(judged));
            }
            nat::apply(f, packet, flow, headers)?;
            decrement_hop_limit(packet, headers);
            store(f, headers)?;
            Ok(Verdict::to_uplink(judged))
        }
    }
}

/// Decrements the hop limit. Packets with a hop limit of 1 have been passed to the stack before,
/// except replies that only Sluice can translate, which are forwarded.
#[inline(always)]
fn decrement_hop_limit(packet: &Packet, headers: &mut Headers) {
    if packet.hop_limit > 1 {
        headers.ip.decrement_hop_limit();
    }
}

/// Writes the headers into the packet.
#[inline(always)]
pub fn store<F: Frame>(f: &F, headers: &Headers) -> Result<(), Verdict> {
    let bytes: &[u8; Headers::LEN] = transmute_ref!(headers);
    if f.store(0, bytes) { Ok(()) } else { Err(Verdict::Drop(DropReason::NatFailed)) }
}
