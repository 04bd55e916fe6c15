//! Counters per drop reason, outcome and reason for which an event was lost.

use sluice_abi::{DropReason, EventLoss, Outcome};

use crate::maps::COUNTERS;

/// Counts an outcome of a packet of `bytes` bytes.
#[inline(always)]
pub fn outcome(outcome: Outcome, bytes: u32) {
    add(outcome.counter_index(), bytes);
}

/// Counts a dropped packet of `bytes` bytes.
#[inline(always)]
pub fn dropped(reason: DropReason, bytes: u32) {
    add(reason.counter_index(), bytes);
}

/// Counts a dropped packet of `bytes` bytes of which no event was written.
#[inline(always)]
pub fn event_lost(loss: EventLoss, bytes: u32) {
    add(loss.counter_index(), bytes);
}

#[inline(always)]
fn add(index: u32, bytes: u32) {
    if let Some(ptr) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: this CPU's entry, to which no other reference exists.
        let counter = unsafe { &mut *ptr };
        counter.packets += 1;
        counter.bytes += u64::from(bytes);
    }
}
