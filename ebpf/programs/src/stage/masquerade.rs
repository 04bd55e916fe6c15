//! Who needs the node's address as source, and why.

use sluice_abi::{DropReason, NodeConfig, flow_flags, node_flags};
use sluice_packet::{Verdict, icmp, l4::Kind};

use crate::{
    packet::{Packet, part},
    stage::{fragment, place::Place},
};

/// Marks the new flow of a pod for source translation: towards the outside, and towards itself
/// through a Service (it would not take a packet from its own address).
#[inline(always)]
pub fn pod(p: &mut Packet, node: &NodeConfig, place: Place) -> Result<(), Verdict> {
    let hairpin = p.out.dst == p.key.src;
    let leaves = matches!(place, Place::Outside) && node.flags & node_flags::MASQUERADE != 0;
    if !hairpin && !leaves {
        return Ok(());
    }
    if p.part == part::UNKNOWN {
        return Err(fragment::wait(p));
    }
    // An answer to nothing that we know: no port or identifier could be right.
    if p.kind == Kind::Echo as u8 && p.part != part::LATER && p.l4[0] != icmp::ECHO_REQUEST {
        return Err(Verdict::Drop(DropReason::NotTracked));
    }
    p.flow_flags |= flow_flags::SNAT;
    p.translate = 1;
    Ok(())
}

/// Marks the new flow of somebody outside to a Service: the reply has to come back through us.
#[inline(always)]
pub fn stranger(p: &mut Packet) {
    p.flow_flags |= flow_flags::SNAT;
    p.translate = 1;
}
