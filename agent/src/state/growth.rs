//! Rows and capacities of the maps, and the larger ones that the tables need.

use sluice_core::diff::Capacity;

use super::State;
use crate::conditions::Concern;
use crate::event::PodScope;

/// Capacities of the maps that grow.
#[derive(Debug, Default)]
pub struct Growth {
    present: Capacity,
    largest: Capacity,
    wanted: Option<Capacity>,
    /// The last attempt failed; the reconciler repeats it when it is due.
    failed: bool,
}

impl State {
    /// Number of desired rows by table.
    pub fn rows(&self) -> Vec<(&'static str, usize)> {
        let mut rows = vec![
            ("frontends", self.tables.frontend_count()),
            ("services", self.tables.port_count()),
            ("networks", self.tables.networks().len()),
            ("routes", self.tables.routes().len()),
        ];
        rows.extend(self.policy.row_counts());
        rows
    }

    /// The capacities of the maps.
    pub fn capacity(&self) -> Capacity {
        self.growth.present
    }

    /// Records the capacities of the maps at start.
    pub fn set_capacity(&mut self, capacity: Capacity) {
        self.growth.present = capacity;
    }

    /// Maps cannot grow beyond these capacities.
    #[cfg(test)]
    pub fn set_largest_capacity(&mut self, largest: Capacity) {
        self.growth.largest = largest;
    }

    /// Asks for maps that hold as many entries as needed; `None` if the present ones suffice. Returns
    /// whether they are replaced in this pass: not if they cannot grow, or while a failed attempt
    /// waits for its repetition.
    pub fn require_entries(&mut self, needed: Option<&Capacity>) -> bool {
        let Growth { present, largest, .. } = self.growth;
        let wanted = needed.and_then(|needed| present.grown(needed, &largest));
        let withdrawn = wanted.is_none() && self.growth.wanted.is_some();
        self.growth.wanted = wanted;
        if withdrawn {
            // Its condition ends.
            self.growth.failed = false;
            self.mark([Concern::Growth]);
        }
        let now = wanted.is_some() && !self.growth.failed;
        self.mark(now.then_some(Concern::Growth));
        now
    }

    /// The capacities of larger maps, if such are needed.
    pub fn wanted_capacity(&self) -> Option<Capacity> {
        self.growth.wanted
    }

    /// Records that the maps could not be replaced: what fits into the present ones is written.
    pub fn set_growth_failed(&mut self) {
        self.growth.failed = true;
        self.mark([Concern::ServiceMaps]);
    }

    /// Records that larger maps replace the present ones. They have the same rows, and no program
    /// uses them yet. `takes_over`: programs go on with the former maps until the hooks are switched.
    pub fn set_maps_replaced(&mut self, capacity: Capacity, takes_over: bool) {
        self.growth.present = capacity;
        self.growth.wanted = None;
        self.growth.failed = false;
        self.tables_written = false;
        self.takes_over = takes_over;
        self.replace_programs();
        use Concern::{DeviceMap, Migration, NodeConfig, ServiceMaps, StalePins};
        self.mark([ServiceMaps, DeviceMap, NodeConfig, Migration, StalePins]);
    }

    /// Records that other programs are pinned than those that are attached.
    pub(super) fn replace_programs(&mut self) {
        self.pins_replaced = Some(self.now());
        self.pods.add(PodScope::all());
        use Concern::{CniFiles, Devices, Pods, SocketPrograms};
        self.mark([Devices, SocketPrograms, Pods, CniFiles]);
    }
}
