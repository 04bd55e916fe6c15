//! Entries that the maps need for rows that do not fit.

use std::collections::BTreeSet;

use sluice_abi::Backend;

use super::RealizedServices;
use super::draft::Draft;
use crate::compile::PortRow;
use crate::diff::Capacity;
use crate::diff::growth::entries;

impl Draft {
    /// Adds entries for a row that does not fit.
    fn add_missing(&mut self, entries: &Capacity) {
        self.missing = Some(self.missing.unwrap_or(Capacity::NONE).plus(entries));
    }

    /// Adds a frontend that does not fit, or whose Service port does not.
    pub(super) fn add_missing_frontend(&mut self) {
        self.add_missing(&Capacity { frontends: 1, ..Capacity::NONE });
    }
}

impl RealizedServices {
    /// Adds a Service port that does not fit.
    pub(super) fn add_missing_port(
        &self,
        new: bool,
        service: u32,
        row: &PortRow,
        draft: &mut Draft,
    ) {
        let backends = || row.cluster.iter().chain(row.local.iter().flat_map(|set| set.iter()));
        draft.add_missing(&Capacity {
            services: u32::from(new),
            slots: entries(backends().count()),
            backends: entries(self.without_id(service, backends()).len()),
            ..Capacity::NONE
        });
    }

    /// The entries that the maps would need for all rows, if some do not fit.
    pub(super) fn needed(&self, draft: &Draft) -> Option<Capacity> {
        let missing = draft.missing?;
        let free = u32::try_from(self.slots.available()).unwrap_or(u32::MAX);
        // Deletions come last in a plan: rows that are deleted still count.
        let used = Capacity {
            frontends: entries(self.frontends.len() + draft.delete_frontends.len()),
            services: entries(self.ports.len() + draft.delete_services.len()),
            slots: self.capacity.slots.saturating_sub(free),
            backends: entries(self.used_backends()),
            ..Capacity::NONE
        };
        Some(used.plus(&missing).beyond(&self.capacity, &draft.over_capacity))
    }

    /// Entries of `BACKENDS` that are in use.
    pub(super) fn used_backends(&self) -> usize {
        let unclaimed: usize = self.unclaimed.values().map(Vec::len).sum();
        self.backends.len() + self.orphaned.len() + unclaimed
    }

    /// The backends that have no entry in `BACKENDS`.
    pub(super) fn without_id<'a>(
        &self,
        service: u32,
        backends: impl Iterator<Item = &'a Backend>,
    ) -> BTreeSet<&'a Backend> {
        backends
            .filter(|b| self.backends.get(&(service, **b)).is_none())
            .filter(|b| self.claimable(service, b).is_none())
            .collect()
    }
}
