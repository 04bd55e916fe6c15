//! A pod sends from its own address only.

use sluice_abi::DropReason;
use sluice_packet::Verdict;

use crate::{maps, packet::Packet};

/// The source must be the pod behind the interface that the packet came in by.
#[inline(always)]
pub fn own_address(p: &Packet) -> Result<(), Verdict> {
    match maps::local_pod(&p.key.src) {
        Some(endpoint) if endpoint.ifindex == p.ifindex => Ok(()),
        _ => Err(Verdict::Drop(DropReason::Spoofed)),
    }
}

/// Nobody outside sends from the address of one of our pods.
#[inline(always)]
pub fn not_our_pods(p: &Packet) -> Result<(), Verdict> {
    match maps::local_pod(&p.key.src) {
        Some(_) => Err(Verdict::Drop(DropReason::Spoofed)),
        None => Ok(()),
    }
}
