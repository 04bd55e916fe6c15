//! The maps as they are now, for the first plan after a start or a failure.

use sluice_bpf::BpfError;
use sluice_core::table::Slots;
use sluice_core::{ReadBack, Rows, Table};

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
    let slots = read
        .slot_keys(Slots::SPEC.capacity)
        .into_iter()
        .map(|slot| Ok((slot, maps.slots.lookup(&slot)?.unwrap_or_default())))
        .collect::<Result<Vec<_>, BpfError>>()?;
    read.add_slots(&Rows::of::<Slots>(slots));
    Ok(read)
}
