//! Capacities of the maps that an agent loads.
//!
//! A map that grows is at least as large as the one that is pinned, and as that of a version that
//! this one takes over from: a restart or an upgrade does not reduce it.

use std::collections::BTreeMap;

use sluice_abi::map;
use sluice_bpf::BpfError;
use sluice_core::diff::Capacity;

use super::maps::open_raw;
use super::migration::{MigrationError, PinSet};

/// Number of entries of maps by name, where it is not that of the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Capacity of `FLOWS`.
    pub flows: u32,
    /// Smallest capacities of the maps that grow.
    pub least: Capacity,
}

impl Sizes {
    /// The capacities to load with, beside these pins.
    ///
    /// # Errors
    /// A pin cannot be opened.
    pub(super) fn resolve<'a>(
        &self,
        pinned: impl IntoIterator<Item = &'a PinSet>,
    ) -> Result<BTreeMap<&'static str, u32>, MigrationError> {
        let mut entries: BTreeMap<&'static str, u32> = self.least.growing().collect();
        for set in pinned {
            for (name, entries) in &mut entries {
                if let Some(map) = set.any_map(name)? {
                    *entries = (*entries).max(map.info().max_entries);
                }
            }
        }
        entries.insert(map::FLOWS, self.flows);
        Ok(entries)
    }
}

/// The capacities of the pinned maps.
///
/// # Errors
/// A map is not pinned.
pub fn pinned() -> Result<Capacity, BpfError> {
    let mut failed = None;
    let capacity = Capacity::NONE.with(|growing| match open_raw(growing.table.name) {
        Ok(map) => map.info().max_entries,
        Err(error) => {
            failed = Some(error);
            0
        }
    });
    failed.map_or(Ok(capacity), Err)
}
