//! Rows and capacities of the maps, and the larger ones that the tables need.

use std::time::Instant;

use sluice_core::diff::Capacity;
use sluice_core::policy::Policies;

use super::State;
use crate::backoff::Backoff;
use crate::conditions::Concern;
use crate::event::PodScope;

/// Beside the entries that policies need, one in this many is kept in reserve; maps without it are replaced.
const RESERVE: u32 = 8;

/// Whose rows need entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// The Services.
    Services,
    /// The policies.
    Policies,
}

const ALL: [Rows; 2] = [Rows::Services, Rows::Policies];

/// What is tried until it succeeds: everything, then parts. Policies come first, because their pods are closed.
const ATTEMPTS: [&[Rows]; 3] =
    [&[Rows::Services, Rows::Policies], &[Rows::Policies], &[Rows::Services]];

/// Capacities of the maps that grow.
#[derive(Debug, Default)]
pub struct Growth {
    present: Capacity,
    largest: Capacity,
    /// By [`Rows`].
    needed: [Option<Capacity>; 2],
    /// How many times larger maps have replaced the present ones.
    replaced: u32,
    /// By [`Rows`]: when larger maps are tried again for them. Kept while they are not needed, because a need
    /// can end and come back with each change: that of the steps of a change ends with it.
    backoff: [Backoff; 2],
    /// The agent is to stop: the next one replaces the maps.
    stopped: bool,
}

impl Growth {
    /// The capacities of larger maps for these rows; `None` if the present ones suffice or cannot grow.
    fn grown(&self, rows: &[Rows]) -> Option<Capacity> {
        let needed = rows.iter().filter_map(|rows| self.needed[*rows as usize]);
        let needed = needed.reduce(|a, b| a.max(&b))?;
        self.present.grown(&needed, &self.largest)
    }

    /// Whether the last attempt for these rows failed and the next one is not due.
    fn waits(&self, rows: Rows, now: Instant) -> bool {
        self.backoff[rows as usize].retry_at().is_some_and(|at| now < at)
    }

    /// As [`State::growth_attempts`].
    fn attempts(&self) -> Vec<Capacity> {
        let mut attempts = Vec::new();
        for capacity in ATTEMPTS.iter().filter_map(|rows| self.grown(rows)) {
            if !attempts.contains(&capacity) {
                attempts.push(capacity);
            }
        }
        attempts
    }
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
        let growth = &mut self.growth;
        let had_attempts = !growth.attempts().is_empty();
        growth.needed[rows as usize] = needed.copied();
        let grows = growth.grown(&[rows]).is_some();
        let in_this_pass = grows && !growth.waits(rows, self.now) && !growth.stopped;
        // Its condition begins or ends.
        let changed = had_attempts == growth.attempts().is_empty();
        self.mark((in_this_pass || changed).then_some(Concern::Growth));
        in_this_pass
    }

    /// Asks for maps that hold the compiled policies, before they are full: a change that does not fit has to
    /// wait for larger maps. Returns whether that is so: a part of it must not be written, because what it
    /// allows would be dropped meanwhile.
    pub fn require_policy_entries(&mut self) -> bool {
        let needed = match self.keeps_policy_maps() {
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
        let Growth { present, largest, .. } = self.growth;
        if self.keeps_policy_maps() { present } else { present.max(&largest) }
    }

    /// Whether the steps of the last update do not fit into the present maps, which are not replaced for them.
    /// What they lead to fits: a recovery removes rows before it writes others.
    pub fn policy_steps_need_recovery(&self) -> bool {
        let Growth { present, .. } = self.growth;
        self.keeps_policy_maps()
            && present.holds(&self.policies().needed())
            && !present.holds(&self.policies().needed_by_steps())
    }

    /// Whether changes of policies have to do with the present maps: the last attempt for policies failed, and
    /// the next one is not due.
    fn keeps_policy_maps(&self) -> bool {
        self.growth.waits(Rows::Policies, self.now)
    }

    /// The capacities of larger maps, if such are needed: with the first ones, everything fits, with each of
    /// the others a part. They are tried in this order until one succeeds.
    pub fn growth_attempts(&self) -> Vec<Capacity> {
        self.growth.attempts()
    }

    /// Whether larger maps are needed, and the next attempt is not due.
    pub fn growth_waits(&self) -> bool {
        let growth = &self.growth;
        let mut needing =
            ALL.into_iter().filter(|rows| growth.grown(&[*rows]).is_some()).peekable();
        needing.peek().is_some() && needing.all(|rows| growth.waits(rows, self.now))
    }

    /// Records that the maps could not be replaced, or not for all rows: of the others, what fits into the
    /// present ones is written. The last attempt ended at this time.
    pub fn set_growth_failed(&mut self, ended: Instant) {
        for rows in ALL {
            if self.growth.grown(&[rows]).is_some() {
                self.growth.backoff[rows as usize].failed(ended);
            }
        }
        self.mark([Concern::ServiceMaps, Concern::Policy]);
    }

    /// Records that the maps were not replaced because the agent is to stop. What waits for larger maps waits
    /// for the next agent.
    pub fn set_growth_stopped(&mut self) {
        self.growth.stopped = true;
    }

    /// Whether the agent was to stop when maps were replaced.
    pub fn growth_stopped(&self) -> bool {
        self.growth.stopped
    }

    /// How many times larger maps have replaced the present ones: their rows have to be read then.
    pub fn maps_replaced(&self) -> u32 {
        self.growth.replaced
    }

    /// Records that larger maps replace the present ones. They have the same rows, and no program
    /// uses them yet. `takes_over`: programs go on with the former maps until the hooks are switched.
    pub fn set_maps_replaced(&mut self, capacity: Capacity, takes_over: bool) {
        self.growth.present = capacity;
        for rows in ALL {
            if self.growth.grown(&[rows]).is_none() {
                self.growth.backoff[rows as usize].succeeded();
            }
        }
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
