//! Packet counters of the programs, summed over the CPUs.

use sluice_abi::{Counter, DropReason, EventLoss, Outcome};
use sluice_bpf::{BpfError, Map};

use crate::counters::Count;

/// Reads every counter: drop reasons, outcomes, then lost events, in the order of their numbers.
///
/// # Errors
/// The map cannot be read.
pub fn read(map: &Map<u32, Counter>) -> Result<Vec<Count>, BpfError> {
    all()
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

/// Kind, label and index of each counter.
fn all() -> impl Iterator<Item = (&'static str, &'static str, u32)> {
    let drops = DropReason::ALL.iter().map(|r| ("drop", r.label(), r.counter_index()));
    let outcomes = Outcome::ALL.iter().map(|o| ("outcome", o.label(), o.counter_index()));
    let lost = EventLoss::ALL.iter().map(|l| (Count::LOST_EVENT, l.label(), l.counter_index()));
    drops.chain(outcomes).chain(lost)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sluice_abi::map;

    use super::*;

    #[test]
    fn counters_of_all_kinds_have_entries_of_their_own() {
        let kinds: BTreeSet<_> = all().map(|(kind, ..)| kind).collect();
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["drop", "lost_event", "outcome"]);
        let indices: BTreeSet<u32> = all().map(|(.., index)| index).collect();
        assert_eq!(indices.len(), all().count());
        assert!(indices.last().is_some_and(|last| *last < map::COUNTERS_MAX));
    }
}
