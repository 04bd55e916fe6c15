//! The one exit of the tc programs: counts every verdict, reports drops, returns the code.

use sluice_abi::{DropEvent, DropReason, Outcome, program::Hook};
use sluice_packet::Verdict;

use crate::{
    frame::Frame,
    kernel,
    maps::{self, COUNTERS, EVENTS},
    packet::{Packet, done},
    stage::reject,
};

/// `TC_ACT_UNSPEC`, the same number as `TCX_NEXT`: on to the next program. "OK" would end the
/// chain for programs after ours.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
const SHOT: i32 = 2;
/// Drop events per window and CPU; the counters know them all.
const EVENTS_PER_WINDOW: u64 = 100;
/// One window of drop events.
const WINDOW_NS: u64 = 100_000_000;

/// Ends a packet's way.
#[inline(always)]
pub fn tc(f: &Frame, p: &mut Packet, hook: Hook, verdict: Verdict) -> i32 {
    if p.done & done::TRANSLATED != 0 {
        count(Outcome::Translated.counter_index(), p.len);
    }
    if p.done & done::MASQUERADED != 0 {
        count(Outcome::Masqueraded.counter_index(), p.len);
    }
    if p.done & done::RESTORED != 0 {
        count(Outcome::Restored.counter_index(), p.len);
    }
    match verdict {
        Verdict::Pass => NEXT,
        Verdict::ToStack => {
            count(Outcome::ToStack.counter_index(), p.len);
            NEXT
        }
        Verdict::ToPod { ifindex } => {
            count(Outcome::ToPod.counter_index(), p.len);
            match hook {
                Hook::FromPod | Hook::FromNetdev => {
                    f.address_to_host();
                    kernel::redirect_into_pod(ifindex)
                }
                Hook::ToPod | Hook::ToNetdev => kernel::redirect_out(ifindex),
            }
        }
        Verdict::ToUplink { ifindex, next_hop } => {
            count(Outcome::ToUplink.counter_index(), p.len);
            kernel::redirect_to_neighbour(ifindex, next_hop)
        }
        Verdict::Requeue => match hook {
            Hook::FromPod | Hook::FromNetdev => kernel::redirect_in(p.ifindex),
            Hook::ToPod | Hook::ToNetdev => {
                drop(p, hook, DropReason::FragmentUnknown);
                SHOT
            }
        },
        Verdict::Reject(reason) => refuse(f, p, hook, reason),
        Verdict::Drop(reason) => {
            drop(p, hook, reason);
            SHOT
        }
    }
}

/// Answers the sender where it came from.
#[inline(always)]
fn refuse(f: &Frame, p: &mut Packet, hook: Hook, reason: DropReason) -> i32 {
    drop(p, hook, reason);
    if !reject::answer(f, p) {
        return SHOT;
    }
    count(Outcome::Rejected.counter_index(), p.len);
    match hook {
        Hook::FromPod => {
            f.address_to_host();
            kernel::redirect_into_pod(p.ifindex)
        }
        Hook::FromNetdev => {
            f.mark_sent(true);
            kernel::redirect_out(p.ifindex)
        }
        Hook::ToPod | Hook::ToNetdev => kernel::redirect_in(p.ifindex),
    }
}

#[inline(always)]
fn drop(p: &mut Packet, hook: Hook, reason: DropReason) {
    count(reason.counter_index(), p.len);
    finish_report(hook as u32, reason as u32);
}

#[inline(always)]
fn count(index: u32, bytes: u32) {
    if let Some(ptr) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: this CPU's own counter.
        let counter = unsafe { &mut *ptr };
        counter.packets += 1;
        counter.bytes += u64::from(bytes);
    }
}

/// Tells user space, unless too much has been told already.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn finish_report(hook: u32, reason: u32) -> u32 {
    let Some(p) = maps::packet() else { return 0 };
    let now = kernel::now_ns();
    if now.wrapping_sub(p.events_since_ns) > WINDOW_NS {
        p.events_since_ns = now;
        p.events = 0;
    }
    p.events += 1;
    if p.events > EVENTS_PER_WINDOW {
        return 0;
    }
    let event = DropEvent {
        at_ns: now,
        flow: p.key,
        ifindex: p.ifindex,
        len: p.len,
        reason: reason as u8,
        hook: hook as u8,
        pad: [0; 6],
    };
    // A full buffer means a slow reader: the counters still know.
    u32::from(EVENTS.output::<DropEvent>(&event, 0).is_ok())
}
