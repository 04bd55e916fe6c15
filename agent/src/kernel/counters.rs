//! Packet counters of the programs, summed over the CPUs.

use sluice_abi::{Counter, DropReason, EventLoss, Outcome};
use sluice_bpf::{BpfError, Map};

use crate::counters::Count;

/// Reads every counter: drop reasons, outcomes, then lost events, in the order of their numbers.
///
/// # Errors
/// The map cannot be read.
pub fn read(map: &Map<u32, Counter>) -> Result<Vec<Count>, BpfError> {
    let drops = DropReason::ALL.iter().map(|r| ("drop", r.label(), r.counter_index()));
    let outcomes = Outcome::ALL.iter().map(|o| ("outcome", o.label(), o.counter_index()));
    let lost = EventLoss::ALL.iter().map(|l| (Count::LOST_EVENT, l.label(), l.counter_index()));
    drops
        .chain(outcomes)
        .chain(lost)
        .map(|(kind, label, index)| {
            let per_cpu = map.lookup_per_cpu(&index)?.unwrap_or_default();
            Ok(Count {
                kind: kind.to_owned(),
                label: label.to_owned(),
                packets: per_cpu.iter().map(|c| c.packets).sum(),
                bytes: per_cpu.iter().map(|c| c.bytes).sum(),
            })
        })
        .collect()
}
