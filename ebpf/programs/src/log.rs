//! Log lines of debug builds (feature `log`): one for each verdict, into the ring buffer `AYA_LOGS`,
//! which the agent reads. Other builds have neither the lines nor the map.

use sluice_abi::program::Hook;

use crate::packet::Packet;
use crate::verdict::Verdict;

/// Logs a verdict.
#[cfg(not(feature = "log"))]
#[inline(always)]
pub fn verdict(_: &Packet, _: Hook, _: &Verdict) {}

/// Logs a verdict.
#[cfg(feature = "log")]
#[inline(always)]
pub fn verdict(packet: &Packet, hook: Hook, verdict: &Verdict) {
    let (name, reason) = match verdict {
        // Packets that Sluice does not handle have no tuple.
        Verdict::Bypass(_) | Verdict::HandOver(_) => return,
        Verdict::Deliver(_) => (DELIVER, 0),
        Verdict::Requeue(_) => (REQUEUE, 0),
        Verdict::Reject(reason) => (REJECT, *reason as u32),
        Verdict::Drop(reason) => (DROP, *reason as u32),
    };
    log_verdict(packet, hook as u32, name, reason);
}

#[cfg(feature = "log")]
const DELIVER: u32 = 0;
#[cfg(feature = "log")]
const REQUEUE: u32 = 1;
#[cfg(feature = "log")]
const REJECT: u32 = 2;
#[cfg(feature = "log")]
const DROP: u32 = 3;

/// The verifier checks this function once, and not at each call.
#[cfg(feature = "log")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn log_verdict(packet: *const Packet, hook: u32, verdict: u32, reason: u32) -> u32 {
    // SAFETY: the caller passes a reference; the verifier requires the check for null.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    let name = match verdict {
        DELIVER => "delivered",
        REQUEUE => "requeued",
        REJECT => "rejected",
        _ => "dropped",
    };
    aya_log_ebpf::debug!(
        (),
        "hook {} protocol {} {:i} port {} to {:i} port {}: {}, reason {}",
        hook,
        packet.tuple.proto,
        packet.tuple.src.0,
        packet.tuple.sport.get(),
        packet.tuple.dst.0,
        packet.tuple.dport.get(),
        name,
        reason
    );
    1
}
