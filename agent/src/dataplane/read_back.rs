//! The maps as they are now, for the first plan after a start or a failure.

use sluice_abi::map;
use sluice_bpf::BpfError;
use sluice_core::ReadBack;

use super::maps::Maps;

/// Reads the tables that plans are made for; of the slots only the runs in use.
///
/// # Errors
/// What the kernel says.
pub fn read_back(maps: &Maps) -> Result<ReadBack, BpfError> {
    let mut read = ReadBack {
        frontends: maps.frontends.entries()?,
        backends: maps.backends.entries()?,
        networks: maps.networks.entries()?,
        ..ReadBack::default()
    };
    for run in read.runs(map::SLOTS_MAX) {
        let ids = (run.offset..run.offset + run.len)
            .map(|slot| maps.slots.lookup(&slot).map(Option::unwrap_or_default))
            .collect::<Result<Vec<u32>, _>>()?;
        read.slots.insert(run, ids);
    }
    Ok(read)
}
