//! Handing over to the programs of another version, and back.
//!
//! ```text
//! every packet    version 1 --SUCCESSORS--> version 2     HANDED_OVER in version 1: one write switches
//!                                                          every hook at once
//! without a flow  version 2 --ask--> version 1 --flow known--> handled by version 1
//!                           <--unknown-------                  a new flow, of version 2
//! ```
//! While the agent copies the flows of version 1, LOOK_BACK is set in version 2: a flow is handled by
//! the version whose maps have it, and no version reads maps of the other. The names, numbers and
//! marks of this file are the same in every version.

use aya_ebpf::programs::TcContext;
use sluice_abi::node_flags;
use sluice_abi::program::{Hook, handover_mark};

use crate::config::{self, Node};
use crate::frame::Skb;
use crate::maps::{PREDECESSORS, SUCCESSORS};
use crate::stage::outline::Outlined;
use crate::verdict::{HandOver, Verdict};

/// The node's configuration, if these programs handle the packet.
///
/// # Errors
/// `not_ready`, or the packet continues in the programs of another version.
#[inline(always)]
pub fn enter(f: &Skb, not_ready: Verdict) -> Result<Node, Verdict> {
    let Some(node) = config::node() else { return Err(not_ready) };
    if node.flags() & node_flags::HANDED_OVER != 0 && f.take_mark() != handover_mark::ASK {
        return Err(Verdict::HandOver(HandOver::Successor));
    }
    Ok(node)
}

/// The node's configuration, if these programs handle the packets of XDP: those of another version are
/// not called.
#[inline(always)]
pub fn enter_xdp() -> Option<Node> {
    config::node().filter(|node| node.flags() & node_flags::HANDED_OVER == 0)
}

/// Called for a packet without a flow, before it changes anything: whether another version may
/// have the flow.
///
/// # Errors
/// The packet continues in the programs of that version.
#[inline(always)]
pub fn require_no_flow_elsewhere<F: Outlined>(f: &F, node: Node) -> Result<(), Verdict> {
    let flags = node.flags() & node_flags::MIGRATION;
    if flags == 0 {
        return Ok(());
    }
    if flags & node_flags::HANDED_OVER != 0 {
        return Err(Verdict::HandOver(HandOver::Answer));
    }
    match f.take_mark() {
        handover_mark::UNKNOWN => Ok(()),
        // A version that is being replaced asks while the hooks are switched.
        handover_mark::ASK => Err(Verdict::HandOver(HandOver::Answer)),
        _ => Err(Verdict::HandOver(HandOver::Predecessor)),
    }
}

/// [`enter`] on a device whose packets have no Ethernet header, before one is added. Returns if these
/// programs handle the packet. Its flow is not asked for: the header could not be removed again.
#[inline(always)]
pub fn enter_without_ethernet(f: &Skb, hook: Hook) {
    if let Some(node) = config::node()
        && node.flags() & node_flags::HANDED_OVER != 0
    {
        tail_call(f, hook.l3_index(), HandOver::Successor);
    }
    f.set_mark(handover_mark::UNKNOWN);
}

/// Continues in the program with this index of another version. Returns only if it has none.
#[inline(always)]
pub fn tail_call(f: &Skb, index: u32, to: HandOver) {
    let (programs, mark) = match to {
        HandOver::Successor => (&SUCCESSORS, 0),
        HandOver::Answer => (&SUCCESSORS, handover_mark::UNKNOWN),
        HandOver::Predecessor => (&PREDECESSORS, handover_mark::ASK),
    };
    f.set_mark(mark);
    // SAFETY: the context of the run. The index is that of a hook, and the agent fills the arrays
    // with programs of the same hooks.
    unsafe { programs.tail_call(&TcContext::new(f.as_ptr()), index) };
}
