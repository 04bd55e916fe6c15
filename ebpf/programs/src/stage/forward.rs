//! Where a packet goes on to.

use sluice_abi::{DropReason, NodeConfig};
use sluice_packet::{Verdict, eth, ipv4};
use zerocopy::transmute_ref;

use crate::{
    frame::Frame,
    kernel,
    packet::{HEAD_LEN, Packet, v4},
    stage::{nat, place::Place},
};

/// Translates the packet and sends it to its place. What the kernel's stack has to answer (too
/// long, no route, time exceeded) goes to it untranslated, so that its ICMP error reaches the
/// sender as the sender knows the flow.
#[inline(always)]
pub fn deliver(
    f: &Frame,
    p: &mut Packet,
    node: &NodeConfig,
    place: Place,
) -> Result<Verdict, Verdict> {
    match place {
        Place::Pod => {
            nat::apply(f, p)?;
            into_pod(f, p)
        }
        Place::FreePod => Err(Verdict::Drop(DropReason::NoSuchPod)),
        Place::Services => Err(Verdict::Drop(DropReason::NoSuchService)),
        Place::Node | Place::Link => {
            nat::apply(f, p)?;
            if p.done != 0 {
                store(f, p)?;
            }
            Ok(Verdict::ToStack)
        }
        Place::RemotePod | Place::OtherNode | Place::Outside => {
            if p.wire_len > node.mtu {
                return Ok(Verdict::ToStack);
            }
            let (src, dst) = (v4(&p.out.src.0), v4(&p.out.dst.0));
            let Some((ifindex, next_hop)) =
                kernel::route(f.skb(), p.ifindex, p.key.proto, src, dst)
            else {
                return Ok(Verdict::ToStack);
            };
            nat::apply(f, p)?;
            hop(p);
            store(f, p)?;
            f.mark_sent(true);
            Ok(Verdict::ToUplink { ifindex, next_hop })
        }
    }
}

/// Into a pod of this node, as its gateway would send it.
#[inline(always)]
fn into_pod(f: &Frame, p: &mut Packet) -> Result<Verdict, Verdict> {
    hop(p);
    eth::set_addresses(&mut p.head.eth, p.pod.pod_mac, p.pod.host_mac);
    store(f, p)?;
    Ok(Verdict::ToPod { ifindex: p.pod.ifindex })
}

/// We are a router. (Packets whose time is over have gone to the stack before, except replies that
/// only we can translate: those may live on.)
#[inline(always)]
fn hop(p: &mut Packet) {
    if p.ttl > 1 {
        ipv4::decrement_ttl(&mut p.head.ip);
    }
}

/// Writes the Ethernet and IPv4 headers back.
#[inline(always)]
pub fn store(f: &Frame, p: &Packet) -> Result<(), Verdict> {
    let head: &[u8; HEAD_LEN] = transmute_ref!(&p.head);
    if f.store(0, head) { Ok(()) } else { Err(Verdict::Drop(DropReason::NatFailed)) }
}
