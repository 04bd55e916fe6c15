//! For each hook the ordered list of stages: the packet's way on one screen.
//!
//! Long stages are global functions (`no_mangle`, without arguments or with the context alone): the
//! verifier proves such a function once, by itself, instead of once per way that leads to it.

use aya_ebpf::programs::TcContext;
use sluice_abi::program::Hook;
use sluice_packet::Verdict;

use crate::{finish, frame::Frame, maps, packet::Packet};

pub mod netdev;
mod outward;
pub mod pod;
pub mod socket;

/// Runs the stages of a tc hook on one packet and ends its way.
#[inline(always)]
pub fn run(
    ctx: &TcContext,
    hook: Hook,
    stages: impl FnOnce(&Frame, &mut Packet) -> Result<Verdict, Verdict>,
) -> i32 {
    /// `TC_ACT_SHOT`, for a map lookup that cannot fail.
    const SHOT: i32 = 2;

    let Some(packet) = maps::packet() else { return SHOT };
    let frame = Frame::new(ctx.skb.skb);
    let verdict = match stages(&frame, packet) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    finish::tc(&frame, packet, hook, verdict)
}
