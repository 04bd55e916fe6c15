//! The `COUNTERS` map by label, and what one packet adds to it.

use std::collections::BTreeMap;

use sluice_abi::{Counter, DropReason, EventLoss, Outcome};
use sluice_bpf::Map;

/// Counters that are not zero, by the label of their drop reason or outcome.
pub type Counters = BTreeMap<&'static str, Counter>;

/// Every counter: label and index in the map.
pub fn all() -> impl Iterator<Item = (&'static str, u32)> {
    let reasons = DropReason::ALL.iter().map(|r| (r.label(), r.counter_index()));
    reasons.chain(Outcome::ALL.iter().map(|o| (o.label(), o.counter_index())))
}

/// Reads every counter, summed over the CPUs.
pub fn read(map: &Map<u32, Counter>) -> Counters {
    read_some(map, all())
}

/// Reads the counters of dropped packets without an event.
pub fn read_lost(map: &Map<u32, Counter>) -> Counters {
    read_some(map, EventLoss::ALL.iter().map(|loss| (loss.label(), loss.counter_index())))
}

fn read_some(
    map: &Map<u32, Counter>,
    counters: impl Iterator<Item = (&'static str, u32)>,
) -> Counters {
    let sum = |index: u32| {
        let per_cpu = map.lookup_per_cpu(&index).unwrap().unwrap_or_default();
        per_cpu.iter().fold(Counter::default(), |sum, cpu| Counter {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
        })
    };
    counters
        .map(|(label, index)| (label, sum(index)))
        .filter(|(_, counter)| *counter != Counter::default())
        .collect()
}

/// What was added between two readings.
pub fn difference(before: &Counters, after: &Counters) -> Counters {
    let added = |(label, counter): (&&'static str, &Counter)| {
        let old = before.get(label).copied().unwrap_or_default();
        let added =
            Counter { packets: counter.packets - old.packets, bytes: counter.bytes - old.bytes };
        (added != Counter::default()).then_some((*label, added))
    };
    after.iter().filter_map(added).collect()
}
