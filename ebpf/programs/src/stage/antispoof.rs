//! Source address checks.

use sluice_abi::DropReason;

use crate::{maps, packet::Packet, verdict::Verdict};

/// Drops packets whose source is not the pod behind the interface of the hook.
#[inline(always)]
pub fn require_own_address(packet: &Packet) -> Result<(), Verdict> {
    match maps::local_pod(&packet.tuple.src) {
        Some(pod) if pod.ifindex == packet.ifindex => Ok(()),
        _ => Err(Verdict::Drop(DropReason::Spoofed)),
    }
}

/// Drops packets from the uplink whose source is a pod of this node.
#[inline(always)]
pub fn require_remote_address(packet: &Packet) -> Result<(), Verdict> {
    match maps::local_pod(&packet.tuple.src) {
        Some(_) => Err(Verdict::Drop(DropReason::Spoofed)),
        None => Ok(()),
    }
}
