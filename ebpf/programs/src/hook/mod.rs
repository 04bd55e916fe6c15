//! Hooks: for each, the stages in order.

use aya_ebpf::programs::TcContext;
use sluice_abi::program::Hook;

use crate::{exit, frame::Skb, scratch::Scratch, verdict::Verdict};

mod egress;
mod ingress;
pub mod netdev;
pub mod pod;
pub mod socket;
pub mod xdp;

/// Runs the stages of a tc hook on a packet and returns the tc action.
#[inline(always)]
pub fn run(
    ctx: &TcContext,
    hook: Hook,
    stages: impl FnOnce(&Skb, &mut Scratch) -> Result<Verdict, Verdict>,
) -> i32 {
    // SAFETY: the only call of this run. `None` is impossible: the map has an entry 0.
    let Some(scratch) = (unsafe { Scratch::take(ctx) }) else { return exit::SHOT };
    // SAFETY: the context of the running program.
    let frame = unsafe { Skb::new(ctx.skb.skb) };
    let verdict = match stages(&frame, scratch) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    exit::tc(&frame, scratch, hook, verdict)
}
