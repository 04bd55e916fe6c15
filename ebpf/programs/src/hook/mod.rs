//! Hooks: for each, the stages in order.

use aya_ebpf::programs::TcContext;
use sluice_abi::program::Hook;

use crate::config::Node;
use crate::frame::Skb;
use crate::packet::Packet;
use crate::scratch::Scratch;
use crate::stage::outline::Outlined;
use crate::verdict::Verdict;
use crate::{exit, handover, maps};

mod egress;
mod ingress;
pub mod netdev;
pub mod pod;
pub mod socket;
pub mod xdp;

/// The stages of a tc hook.
///
/// A trait, because a function that is an argument is not always compiled into its caller, and the
/// stack has no room for another frame.
pub trait Stages {
    /// The hook.
    const HOOK: Hook;

    /// Runs the stages on a packet.
    fn run(f: &Skb, s: &mut Scratch) -> Result<Verdict, Verdict>;
}

/// Whether the stack forwards a packet: a device has received it, or the node is not its source.
#[inline(always)]
fn is_forwarded<F: Outlined>(f: &F, packet: &Packet, node: Node) -> bool {
    let source = &packet.tuple.src;
    f.has_come_in() || (*source != node.addr(source) && !maps::is_this_node(source))
}

/// Runs the stages of a hook on a packet and returns the tc action.
#[inline(always)]
pub fn run<S: Stages>(ctx: &TcContext) -> i32 {
    // SAFETY: the only call of this run. `None` is impossible: the map has an entry 0.
    let Some(scratch) = (unsafe { Scratch::take(ctx) }) else { return exit::SHOT };
    // SAFETY: the context of the running program.
    let frame = unsafe { Skb::new(ctx.skb.skb) };
    run_stages::<S>(&frame, scratch)
}

/// As [`run`], on a device whose packets have no Ethernet header: IPv4 packets get one of zeros, so
/// that the stages are the same.
///
/// A packet that the stack or the device receives after all loses the header again: at ingress the
/// kernel skips it, and at egress a redirection to the same device removes it.
#[inline(always)]
pub fn run_without_ethernet<S: Stages>(ctx: &TcContext) -> i32 {
    // SAFETY: as in `run`.
    let Some(scratch) = (unsafe { Scratch::take(ctx) }) else { return exit::SHOT };
    // SAFETY: as in `run`.
    let frame = unsafe { Skb::new(ctx.skb.skb) };
    let egress = matches!(S::HOOK, Hook::ToPod | Hook::ToNetdev);
    if egress && frame.is_forwarded() {
        frame.set_forwarded(false);
        return exit::NEXT;
    }
    if !frame.is_v4() {
        return exit::NEXT;
    }
    handover::enter_without_ethernet(&frame, S::HOOK);
    if !frame.push_ethernet_header() {
        return exit::SHOT;
    }
    let action = run_stages::<S>(&frame, scratch);
    if egress { exit::without_ethernet(&frame, action) } else { action }
}

#[inline(always)]
fn run_stages<S: Stages>(frame: &Skb, scratch: &mut Scratch) -> i32 {
    let verdict = match S::run(frame, scratch) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    exit::tc(frame, scratch, S::HOOK, verdict)
}
