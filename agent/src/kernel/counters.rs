//! Packet counters of the programs, summed over the CPUs.

use sluice_abi::{Counter, DropReason, Outcome};
use sluice_bpf::{BpfError, Map};

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Count {
    /// `drop` or `outcome`.
    pub kind: String,
    /// Label of the reason or outcome.
    pub label: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Reads every counter: drop reasons first, in the order of their numbers.
///
/// # Errors
/// The map cannot be read.
pub fn read(map: &Map<u32, Counter>) -> Result<Vec<Count>, BpfError> {
    let drops = DropReason::ALL.iter().map(|r| ("drop", r.label(), r.counter_index()));
    let outcomes = Outcome::ALL.iter().map(|o| ("outcome", o.label(), o.counter_index()));
    drops
        .chain(outcomes)
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
