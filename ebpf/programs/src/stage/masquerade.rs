//! Decides which new flows get an address of the node as source, and which address.
//!
//! It is that of the device that the flow leaves by, so that replies return to it.

use sluice_abi::{Addr, DropReason, device_flags};
use sluice_packet::l4::Kind;

use crate::config::{self, Node};
use crate::flow::{DestinationClass, Flow, Origin};
use crate::kernel::{NextHop, Route};
use crate::maps;
use crate::packet::Packet;
use crate::stage::fragment;
use crate::stage::outline::Outlined;
use crate::verdict::Verdict;

/// Sets the source of a flow after translation to the address of the device that it leaves by, or to
/// the node's address if it does not leave the node. The source port is chosen later. False: the
/// source is kept, because the device has no programs that translate replies back.
///
/// The address is unspecified if the agent has not seen the device yet: no flow is opened then.
#[inline(always)]
pub fn set_source<F: Outlined>(f: &F, packet: &Packet, flow: &mut Flow, hop: &mut NextHop) -> bool {
    let leaves = leaves_node(f, packet, flow, hop);
    masquerade_set_source(hop, flow, u32::from(leaves)) == 1
}

/// Whether a flow leaves the node by a known route, which `hop` is set to.
#[inline(always)]
fn leaves_node<F: Outlined>(f: &F, packet: &Packet, flow: &Flow, hop: &mut NextHop) -> bool {
    // The length is checked when the packet is forwarded.
    flow.class.leaves_node() && f.route(packet, &flow.translated, 1, hop) == Route::Found
}

/// The body of [`set_source`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn masquerade_set_source(hop: *const NextHop, flow: *mut Flow, leaves: u32) -> u32 {
    // SAFETY: the caller passes references; the verifier requires the checks for null.
    let (Some(hop), Some(flow)) = (unsafe { (hop.as_ref(), flow.as_mut()) }) else { return 0 };
    let Some(node) = config::node() else { return 0 };
    let node_addr = node.addr(&flow.translated.dst);
    flow.translated.src = if leaves == 0 {
        node_addr
    } else {
        match maps::device(hop.ifindex) {
            None => Addr::UNSPECIFIED,
            Some(device) if device.flags & device_flags::MANAGED != 0 => device.addr,
            Some(_) if flow.origin == Origin::Netdev => node_addr,
            Some(_) => return 0,
        }
    };
    1
}

/// Requests source translation for the new flow of a pod to the outside, and for a flow to itself
/// by a Service, because a host does not accept packets from its own address.
#[inline(always)]
pub fn from_pod<F: Outlined>(
    f: &F,
    packet: &Packet,
    flow: &mut Flow,
    class: DestinationClass,
    node: Node,
    hop: &mut NextHop,
) -> Result<(), Verdict> {
    let hairpin = flow.translated.dst == packet.tuple.src;
    let leaves = class == DestinationClass::Outside && node.masquerades();
    // The answer to a connection from outside has no new source, whatever became of its entry.
    if packet.is_syn_ack() || (!hairpin && !leaves) {
        return Ok(());
    }
    if packet.is_unresolved() {
        return Err(fragment::wait(packet));
    }
    // The identifier belongs to the requesting side, so that a reply without a flow cannot be
    // translated.
    if packet.kind == Kind::EchoReply {
        return Err(Verdict::Drop(DropReason::NotTracked));
    }
    if set_source(f, packet, flow, hop) {
        flow.masquerade();
    }
    Ok(())
}

/// Requests source translation for a flow of the node to a Service whose backend is behind another
/// device than the one that the stack chose the source for.
#[inline(always)]
pub fn from_node<F: Outlined>(f: &F, packet: &Packet, flow: &mut Flow, hop: &mut NextHop) {
    let moves = leaves_node(f, packet, flow, hop) && hop.ifindex != packet.ifindex;
    if moves && masquerade_set_source(hop, flow, 1) == 1 && flow.translated.src != packet.tuple.src
    {
        flow.masquerade();
    } else {
        flow.translated.src = packet.tuple.src;
    }
}
