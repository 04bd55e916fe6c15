//! Counters per drop reason and outcome.

use sluice_abi::{DropReason, Outcome};

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

#[inline(always)]
fn add(index: u32, bytes: u32) {
    if let Some(ptr) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: this CPU's entry, to which no other reference exists.
        let counter = unsafe { &mut *ptr };
        counter.packets += 1;
        counter.bytes += u64::from(bytes);
    }
}
