//! Decides which new flows get the node's address as source.

use sluice_abi::DropReason;
use sluice_packet::l4::Kind;

use crate::{
    config::Node,
    flow::Flow,
    packet::Packet,
    stage::{class::DestinationClass, fragment},
    verdict::Verdict,
};

/// Requests source translation for the new flow of a pod to the outside, and for a flow to itself
/// by a Service, because a host does not accept packets from its own address.
#[inline(always)]
pub fn from_pod(
    packet: &Packet,
    flow: &mut Flow,
    class: DestinationClass,
    node: Node,
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
    flow.masquerade();
    Ok(())
}
