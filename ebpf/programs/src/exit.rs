//! The verdict exit: counts each verdict, reports drops, returns the action of tc or XDP.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use sluice_abi::program::Hook;
use sluice_abi::{Direction, DropEvent, DropReason, EventLoss, FlowKey, Outcome};
use sluice_packet::error_limit::{self, Errors};
use sluice_packet::l4::Kind;
use sluice_packet::{icmp, sample};

use crate::flow::FlowState;
use crate::frame::{Frame, Skb};
use crate::maps::EVENTS;
use crate::packet::{FragmentState, Packet};
use crate::scratch::Scratch;
use crate::stage::reject;
use crate::verdict::{Delivery, Target, Verdict};
use crate::{counters, handover, kernel, log};

/// `TC_ACT_UNSPEC`, the same number as `TCX_NEXT`: continue with the next program. `TC_ACT_OK`
/// would skip the programs after this one.
pub const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
pub const SHOT: i32 = 2;
/// `XDP_DROP`.
const XDP_DROP: u32 = 1;
/// `XDP_PASS`.
pub const XDP_PASS: u32 = 2;
/// `XDP_TX`.
const XDP_TX: u32 = 3;

/// Errors that this CPU has sent to other hosts.
#[map]
static ERROR_LIMIT: PerCpuArray<Errors> = PerCpuArray::with_max_entries(1, 0);

/// Rate limit of drop events.
#[map]
static EVENT_WINDOW: PerCpuArray<sample::Window> = PerCpuArray::with_max_entries(1, 0);

/// Ends a program run with a verdict.
#[inline(always)]
pub fn tc(f: &Skb, s: &mut Scratch, hook: Hook, verdict: Verdict) -> i32 {
    log::verdict(&s.packet, hook, &verdict);
    match verdict {
        Verdict::Bypass(_) => NEXT,
        Verdict::Deliver(delivery) => deliver(f, s, hook, &delivery),
        Verdict::Requeue(_) => match hook {
            Hook::FromPod | Hook::FromNetdev => kernel::redirect_in(f.ifindex()),
            Hook::ToPod | Hook::ToNetdev => drop(s, hook, DropReason::FragmentUnknown),
        },
        Verdict::Reject(reason) => reject(f, s, hook, reason),
        Verdict::Drop(reason) => drop(s, hook, reason),
        Verdict::HandOver(to) => {
            handover::tail_call(f, hook.index(), to);
            not_ready(s, hook)
        }
    }
}

/// Ends a run of the XDP program. A packet that does not leave by it is passed unchanged and
/// uncounted: tc repeats the verdict.
#[inline(always)]
pub fn xdp(s: &Scratch, verdict: Verdict) -> u32 {
    log::verdict(&s.packet, Hook::FromNetdev, &verdict);
    match verdict {
        Verdict::Deliver(delivery) if matches!(delivery.target(), Target::Uplink(_)) => {
            counters::outcome(Outcome::ToUplinkByXdp, s.packet.len);
            if s.next_hop.ifindex == s.packet.ifindex {
                XDP_TX
            } else {
                kernel::redirect_out(s.next_hop.ifindex) as u32
            }
        }
        // The packet may have changed.
        Verdict::Drop(DropReason::NatFailed) => {
            drop(s, Hook::FromNetdev, DropReason::NatFailed);
            XDP_DROP
        }
        _ => XDP_PASS,
    }
}

/// The action for a packet at the egress of a device without Ethernet headers, which has one now: it
/// is removed on the way to the same device.
#[inline(always)]
pub fn without_ethernet(f: &Skb, action: i32) -> i32 {
    if action != NEXT {
        return action;
    }
    f.set_forwarded(true);
    kernel::redirect_out(f.ifindex())
}

#[inline(always)]
fn deliver(f: &Skb, s: &Scratch, hook: Hook, delivery: &Delivery) -> i32 {
    let len = s.packet.len;
    match delivery.target() {
        Target::Unchanged(_) => NEXT,
        Target::Stack(_) => {
            counters::outcome(Outcome::ToStack, len);
            NEXT
        }
        Target::Pod { ifindex } => {
            counters::outcome(Outcome::ToPod, len);
            match hook {
                Hook::FromPod | Hook::FromNetdev => {
                    f.address_to_host();
                    kernel::redirect_into_pod(*ifindex)
                }
                Hook::ToPod | Hook::ToNetdev => {
                    // The packet passes `to_pod` on its way.
                    f.set_forwarded(true);
                    kernel::redirect_out(*ifindex)
                }
            }
        }
        Target::Uplink(_) => {
            counters::outcome(Outcome::ToUplink, len);
            f.set_forwarded(true);
            kernel::redirect_to_neighbour(&s.next_hop)
        }
    }
}

/// Drops a packet and returns an ICMP error or a TCP reset on the interface of the hook.
///
/// Other hosts get at most as many as [`error_limit`] allows, because their addresses may be forged. As the kernel, it
/// does not count "fragmentation needed", which senders wait for and which is shorter than its packet. Senders on this
/// node have no limit: their addresses are their own.
#[inline(always)]
fn reject(f: &Skb, s: &mut Scratch, hook: Hook, reason: DropReason) -> i32 {
    drop(s, hook, reason);
    let is_from_here = matches!(hook, Hook::FromPod | Hook::ToNetdev);
    if !reject::may_answer(&s.packet) {
        return SHOT;
    }
    let is_limited = hook == Hook::FromNetdev && reason != DropReason::TooLong;
    if is_limited && exit_takes_error(s.packet.len) == 0 {
        return SHOT;
    }
    let is_reset = (is_from_here || reason == DropReason::NotTracked)
        && !matches!(reason, DropReason::TooLong | DropReason::HopLimit)
        && reject::reset(f, &s.packet, &mut s.headers, &mut s.quote);
    if !is_reset && !answer(f, s, reason) {
        return SHOT;
    }
    counters::outcome(Outcome::Rejected, s.packet.len);
    let ifindex = s.packet.ifindex;
    match hook {
        Hook::FromPod => {
            f.address_to_host();
            kernel::redirect_into_pod(ifindex)
        }
        Hook::FromNetdev => {
            f.set_forwarded(true);
            kernel::redirect_out(ifindex)
        }
        Hook::ToPod | Hook::ToNetdev => kernel::redirect_in(ifindex),
    }
}

/// Counts an error about a packet of `len` bytes to another host. Returns 0 if the limit of this CPU is reached.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn exit_takes_error(len: u32) -> u32 {
    let Some(errors) = ERROR_LIMIT.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's entry, to which only this function has a reference.
    if error_limit::take(unsafe { &mut *errors }, kernel::now_ns()) {
        return 1;
    }
    counters::outcome(Outcome::ErrorLimited, len);
    0
}

#[inline(always)]
fn answer(f: &Skb, s: &mut Scratch, reason: DropReason) -> bool {
    let error = match reason {
        DropReason::TooLong => icmp::Error::fragmentation_needed(s.next_hop.mtu as u16),
        DropReason::HopLimit => icmp::Error::HOP_LIMIT,
        _ => icmp::Error::PORT_UNREACHABLE,
    };
    reject::answer(f, &s.packet, &mut s.headers, &mut s.quote, error)
}

/// The end of a packet whose hook has no programs that are ready: an uplink passes packets of the
/// node.
#[inline(always)]
fn not_ready(s: &Scratch, hook: Hook) -> i32 {
    match hook {
        Hook::FromPod | Hook::ToPod => drop(s, hook, DropReason::NotReady),
        Hook::FromNetdev | Hook::ToNetdev => NEXT,
    }
}

#[inline(always)]
fn drop(s: &Scratch, hook: Hook, reason: DropReason) -> i32 {
    counters::dropped(reason, s.packet.len);
    let (tuple, relation) = match reason {
        DropReason::PolicyEgress | DropReason::PolicyIngress | DropReason::PolicyPending => {
            (&s.policy_input.tuple, relation(s))
        }
        _ => (&s.packet.tuple, Relation::None),
    };
    if matches!(relation, Relation::MidStream) {
        counters::outcome(Outcome::MidStream, s.packet.len);
    }
    exit_report(&s.packet, tuple, hook as u32, reason as u32, relation as u32);
    SHOT
}

/// What a packet that policies drop is to the flow that was judged.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Relation {
    /// Its first packet, or a later one in its direction.
    None = 0,
    /// It has the reverse direction.
    Reply = 1,
    /// It was judged as the first packet of a flow, but is none: a segment without SYN or with ACK, or an echo reply.
    MidStream = 2,
}

#[inline(always)]
fn relation(s: &Scratch) -> Relation {
    let is_reply = match s.flow.state {
        FlowState::Established => s.flow.direction == Direction::Reply,
        // An error is sent to the sender of the quoted packet.
        FlowState::Related => {
            let (quoted, judged) = (&s.quoted.original, &s.policy_input.tuple);
            quoted.src == judged.src && quoted.sport == judged.sport
        }
        FlowState::New | FlowState::Untracked => {
            // Later fragments have no flags.
            let has_flags =
                matches!(s.packet.fragment, FragmentState::Whole | FragmentState::First);
            let opens = !s.packet.is_mid_stream() && s.packet.kind != Kind::EchoReply;
            return if has_flags && !opens { Relation::MidStream } else { Relation::None };
        }
    };
    if is_reply { Relation::Reply } else { Relation::None }
}

/// Writes a drop event to the ring buffer, within the rate limit, or counts it as lost. Returns 1 if it was
/// written.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn exit_report(
    packet: *const Packet,
    tuple: *const FlowKey,
    hook: u32,
    reason: u32,
    relation: u32,
) -> u32 {
    // SAFETY: the caller passes a reference; the verifier requires the check for null.
    let (Some(packet), Some(tuple)) = (unsafe { (packet.as_ref(), tuple.as_ref()) }) else {
        return 0;
    };
    let Some(window) = EVENT_WINDOW.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's entry, to which only this function has a reference.
    let window = unsafe { &mut *window };
    let now = kernel::now_ns();
    if !sample::take(window, now, tuple, reason) {
        counters::event_lost(EventLoss::RateLimit, packet.len);
        return 0;
    }
    let event = DropEvent {
        at_ns: now,
        flow: *tuple,
        ifindex: packet.ifindex,
        len: packet.len,
        reason: reason as u8,
        hook: hook as u8,
        is_reply: u8::from(relation == Relation::Reply as u32),
        is_mid_stream: u8::from(relation == Relation::MidStream as u32),
        pad: [0; 4],
    };
    // The write fails if the reader is slow, or absent, and the buffer full.
    if EVENTS.output::<DropEvent>(&event, 0).is_err() {
        counters::event_lost(EventLoss::BufferFull, packet.len);
        return 0;
    }
    1
}
