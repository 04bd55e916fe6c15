//! Verdicts. Each variant has a payload of 32 bits: the compiler may combine a missing or shorter one
//! with a register that holds a pointer, which the verifier rejects.
//!
//! A packet is delivered only with a policy verdict: [`Delivery`] values require a
//! [`Judged`], which only [`crate::stage::policy`] returns.

use sluice_abi::DropReason;

use crate::stage::policy::Judged;

/// The result of a program run.
pub enum Verdict {
    /// Continue with the next program; not counted, and without policy verdict.
    Bypass(#[expect(dead_code, reason = "states why there is no policy verdict")] Bypass),
    /// Deliver.
    Deliver(Delivery),
    /// Return to the queue of the same hook: a later fragment that arrived before its first one.
    /// Hooks without such a queue drop the packet.
    Requeue(#[expect(dead_code, reason = "fills the payload")] Nothing),
    /// Drop, and send an ICMP error or a TCP reset to the sender.
    Reject(DropReason),
    /// Drop.
    Drop(DropReason),
    /// Continue in the program of another version.
    HandOver(HandOver),
}

/// The other version.
#[derive(Clone, Copy)]
pub enum HandOver {
    /// The version that has taken over.
    Successor,
    /// The same, for a packet that it has asked about and whose flow is not known.
    Answer,
    /// The version that may know the packet's flow.
    Predecessor,
}

/// The payload of a variant without one.
#[derive(Clone, Copy)]
pub struct Nothing(#[expect(dead_code, reason = "fills the payload")] u32);

impl Nothing {
    const NEW: Nothing = Nothing(0);
}

/// Why a packet needs no policy verdict.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Bypass {
    /// Not a packet that Sluice handles: not IP, or IP that is malformed or not supported, at a hook
    /// where the stack decides about it.
    Unparsed,
    /// ARP, which at a pod's device is about that pod.
    Arp,
    /// The agent has not written the node's configuration.
    NotReady,
    /// The frame is addressed to another host, or is a broadcast or multicast frame.
    NotForHost,
    /// Neither from nor to a pod of this node.
    NodeTraffic,
    /// Another Sluice program has delivered the packet already.
    Forwarded,
    /// At XDP: left to tc.
    ForTc,
}

/// A destination, with a policy verdict.
pub struct Delivery(Target);

/// Where a packet is delivered.
#[derive(Clone, Copy)]
pub enum Target {
    /// To where the stack or the next program sends it; not counted.
    Unchanged(#[expect(dead_code, reason = "fills the payload")] Nothing),
    /// To the node's stack; at egress hooks, to where the stack sends it.
    Stack(#[expect(dead_code, reason = "fills the payload")] Nothing),
    /// Into the pod with this host interface.
    Pod {
        /// Interface index of the host end of the pod's veth pair.
        ifindex: u32,
    },
    /// Out of an uplink, to [`crate::scratch::Scratch::next_hop`].
    Uplink(#[expect(dead_code, reason = "fills the payload")] Nothing),
}

impl Delivery {
    /// The destination.
    #[inline(always)]
    pub fn target(&self) -> &Target {
        &self.0
    }
}

impl Verdict {
    /// Returns a packet to the queue of its hook.
    pub const REQUEUE: Verdict = Verdict::Requeue(Nothing::NEW);

    /// Delivers a packet that Sluice has not changed to where the stack sends it.
    #[inline(always)]
    pub fn unchanged(_: Judged) -> Verdict {
        Verdict::Deliver(Delivery(Target::Unchanged(Nothing::NEW)))
    }

    /// Delivers to the node's stack.
    #[inline(always)]
    pub fn to_stack(_: Judged) -> Verdict {
        Verdict::Deliver(Delivery(Target::Stack(Nothing::NEW)))
    }

    /// Delivers to a pod of this node.
    #[inline(always)]
    pub fn to_pod(_: Judged, ifindex: u32) -> Verdict {
        Verdict::Deliver(Delivery(Target::Pod { ifindex }))
    }

    /// Delivers to another host, by the next hop that the route lookup has found.
    #[inline(always)]
    pub fn to_uplink(_: Judged) -> Verdict {
        Verdict::Deliver(Delivery(Target::Uplink(Nothing::NEW)))
    }
}
