//! Rows and capacities of the maps, and the larger ones that the tables need.

use sluice_core::diff::Capacity;
use sluice_core::policy::Policies;

use super::State;
use crate::conditions::Concern;
use crate::event::PodScope;

/// Maps of policies are replaced when one in this many of the entries that they need is missing.
const RESERVE: u32 = 8;

/// Whose rows need entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// The Services.
    Services,
    /// The policies.
    Policies,
}

/// Capacities of the maps that grow.
#[derive(Debug, Default)]
pub struct Growth {
    present: Capacity,
    largest: Capacity,
    /// By [`Rows`]: all maps are replaced together.
    needed: [Option<Capacity>; 2],
    wanted: Option<Capacity>,
    /// How many times larger maps have replaced the present ones.
    replaced: u32,
    /// The last attempt failed; the reconciler repeats it when it is due.
    failed: bool,
    /// The agent is to stop: the next one replaces the maps.
    stopped: bool,
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

    /// Asks for maps that hold as many entries as these rows need; `None` if the present ones suffice.
    /// Returns whether they are replaced for these rows in this pass: not if they cannot grow, or while a
    /// failed attempt waits for its repetition.
    pub fn require_entries(&mut self, rows: Rows, needed: Option<&Capacity>) -> bool {
        let Growth { present, largest, .. } = self.growth;
        let grown = |needed: &Capacity| present.grown(needed, &largest);
        let grows = needed.and_then(grown).is_some();
        self.growth.needed[rows as usize] = needed.copied();
        let all = self.growth.needed.into_iter().flatten().reduce(|a, b| a.max(&b));
        let wanted = all.as_ref().and_then(grown);
        let withdrawn = wanted.is_none() && self.growth.wanted.is_some();
        self.growth.wanted = wanted;
        if withdrawn {
            // Its condition ends.
            self.growth.failed = false;
            self.mark([Concern::Growth]);
        }
        let now = wanted.is_some() && !self.growth.failed && !self.growth.stopped;
        self.mark(now.then_some(Concern::Growth));
        now && grows
    }

    /// Asks for maps that hold the compiled policies, before they are full: a change that does not fit has to
    /// wait for larger maps. Returns whether that is so: a part of it must not be written, because what it
    /// allows would be dropped meanwhile.
    pub fn require_policy_entries(&mut self) -> bool {
        let needed = match self.growth.failed {
            // In each step, what does not fit is closed.
            true => self.policies().needed(),
            false => self.policies().needed_by_steps(),
        };
        let grows = self.require_entries(Rows::Policies, Some(&with_reserve(needed)));
        (grows || self.growth.stopped) && !self.growth.present.holds(&needed)
    }

    /// The entries that the listed policies need; none before they are listed.
    pub fn policy_entries_of_lists(&self) -> Capacity {
        if !self.policies_listed() || self.policy_counts() == [0, 0] {
            return Capacity::NONE;
        }
        with_reserve(Policies::needed_for(self.index()))
    }

    /// The capacities for which policies are compiled. What does not fit into the largest maps is left out,
    /// as is what does not fit into the present ones while these cannot be replaced.
    pub(super) fn policy_capacity(&self) -> Capacity {
        let Growth { present, largest, failed, .. } = self.growth;
        if failed { present } else { present.max(&largest) }
    }

    /// The capacities of larger maps, if such are needed.
    pub fn wanted_capacity(&self) -> Option<Capacity> {
        self.growth.wanted
    }

    /// Records that the maps could not be replaced: what fits into the present ones is written.
    pub fn set_growth_failed(&mut self) {
        self.growth.failed = true;
        self.mark([Concern::ServiceMaps, Concern::Policy]);
    }

    /// Records that the maps were not replaced because the agent is to stop. What waits for larger maps waits
    /// for the next agent.
    pub fn set_growth_stopped(&mut self) {
        self.growth.stopped = true;
    }

    /// How many times larger maps have replaced the present ones: their rows have to be read then.
    pub fn maps_replaced(&self) -> u32 {
        self.growth.replaced
    }

    /// Records that larger maps replace the present ones. They have the same rows, and no program
    /// uses them yet. `takes_over`: programs go on with the former maps until the hooks are switched.
    pub fn set_maps_replaced(&mut self, capacity: Capacity, takes_over: bool) {
        self.growth.present = capacity;
        self.growth.wanted = None;
        self.growth.failed = false;
        self.growth.replaced += 1;
        self.tables_written = false;
        self.set_policies_unwritten();
        self.takes_over = takes_over;
        self.replace_programs();
        use Concern::{DeviceMap, Migration, NodeConfig, Policy, ServiceMaps, StalePins};
        self.mark([ServiceMaps, Policy, DeviceMap, NodeConfig, Migration, StalePins]);
    }

    /// Records that other programs are pinned than those that are attached.
    pub(super) fn replace_programs(&mut self) {
        self.pins_replaced = Some(self.now());
        self.pods.add(PodScope::all());
        use Concern::{CniFiles, Devices, Pods, SocketPrograms};
        self.mark([Devices, SocketPrograms, Pods, CniFiles]);
    }
}

/// More entries than are needed.
fn with_reserve(needed: Capacity) -> Capacity {
    needed.plus(&Capacity::NONE.with(|growing| needed.of(growing) / RESERVE))
}
