//! Desired rows compared with the rows in the kernel -> writes in an order that is safe after each.
//!
//! ```text
//! put networks -> put backends -> put slots -> put services -> put source ranges
//!     -> put frontends                                                  (references exist)
//!     -> delete frontends -> delete source ranges -> delete services -> delete backends
//!     -> delete networks                                                (references removed)
//! ```
//! A changed Service port gets a new range of slots, and one map update switches it over. The old
//! range and the ids of removed backends and ports are quarantined ([`crate::quarantine`]), so that a
//! program that runs meanwhile never combines old and new rows. A Service port whose frontends leave
//! the traffic policy Local loses its Local set after them, in the place of deletions.
//!
//! [`RealizedState`] assumes that each plan is carried out. After a failed write, the caller reads
//! the maps back, calls [`RealizedState::resync`] and plans again.

mod growth;
mod plan;
mod read_back;
mod services;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;

pub use growth::{Capacity, GROWING, Growing};
pub use plan::{CapacityError, Plan, StaleBackend};
pub use read_back::ReadBack;
use sluice_abi::{Network, NetworkKey, network_kind};

use self::services::RealizedServices;
use crate::table::{self, Expected, Networks, Rows};
use crate::tables::{Changed, Tables};

/// The rows that the kernel holds, if every plan so far was carried out.
#[derive(Clone, Debug)]
pub struct RealizedState {
    services: RealizedServices,
    networks: BTreeMap<NetworkKey, Network>,
    capacity: Capacity,
    compare_all: bool,
    /// A network did not fit: every plan compares the networks.
    networks_over_capacity: bool,
}

impl RealizedState {
    /// The state of the maps at start; [`ReadBack::default`] for empty maps.
    pub fn new(read_back: ReadBack) -> RealizedState {
        RealizedState::with_capacity(read_back, Capacity::default())
    }

    /// As [`RealizedState::new`], for maps with other capacities.
    pub fn with_capacity(read_back: ReadBack, capacity: Capacity) -> RealizedState {
        RealizedState {
            services: RealizedServices::new(&read_back, capacity),
            networks: read_back.networks.iter().copied().collect(),
            capacity,
            compare_all: true,
            networks_over_capacity: false,
        }
    }

    /// Replaces the state with the rows in the maps, after a failed write. What the state before
    /// used or had quarantined is not reused by the next plans.
    pub fn resync(&mut self, read_back: ReadBack) {
        let mut state = RealizedState::with_capacity(read_back, self.capacity);
        state.services.succeed(&self.services);
        *self = state;
    }

    /// Replaces the state with the rows in maps that replace the former ones, with other capacities.
    /// No program has used them, so that all their slots are free; ids are not reused at once, because
    /// flows have them.
    pub fn replace(&mut self, read_back: ReadBack, capacity: Capacity) {
        let mut state = RealizedState::with_capacity(read_back, capacity);
        state.services.succeed_ids(&self.services);
        *self = state;
    }

    /// Makes the next plan compare all rows.
    pub fn compare_all(&mut self) {
        self.compare_all = true;
    }

    /// Plans the writes that lead to the desired rows. `changed` names the differences from the
    /// tables of the previous call. The first call after [`RealizedState::new`] and
    /// [`RealizedState::resync`] compares all rows and deletes those that are not desired; the
    /// index must be synced before.
    pub fn plan(&mut self, tables: &Tables, changed: &Changed) -> Plan {
        let all = std::mem::take(&mut self.compare_all);
        let mut plan = Plan::default();
        if all || changed.networks || self.networks_over_capacity {
            self.plan_networks(tables, &mut plan);
        }
        self.services.plan(tables, (!all).then_some(changed), &mut plan);
        table::sort_by_reference(&mut plan.writes);
        plan
    }

    /// The rows of the maps as they were written, in the order in which the maps are compared.
    /// [`RealizedState::slots_of`] has those of `SLOTS`.
    pub fn expected(&self) -> [Expected<'_>; 5] {
        let [backends, services, source_ranges, frontends] = self.services.expected();
        let networks = Expected::rows::<Networks>(&self.networks);
        [backends, services, source_ranges, frontends, networks]
    }

    /// The rows of `SLOTS` that rows of `SERVICES` refer to.
    pub fn slots_of(&self, services: &Rows) -> Rows {
        self.services.slots_of(services)
    }

    /// Frontends, slots and backends.
    #[cfg(test)]
    fn services(&self) -> &RealizedServices {
        &self.services
    }

    /// The desired networks, and the ranges of ClusterIPs in the kernel as long as those of ServiceCIDR
    /// objects are not known: packets to free addresses in them would be routed out.
    fn with_unlisted_services<'a>(
        &self,
        tables: &'a Tables,
    ) -> Cow<'a, BTreeMap<NetworkKey, Network>> {
        let mut desired = Cow::Borrowed(tables.networks());
        if !tables.service_ranges_known() {
            let found = self.networks.iter().filter(|(_, n)| n.kind == network_kind::SERVICES);
            for (key, network) in found {
                if !desired.contains_key(key) {
                    desired.to_mut().insert(*key, *network);
                }
            }
        }
        desired
    }

    fn plan_networks(&mut self, tables: &Tables, plan: &mut Plan) {
        let max = self.capacity.networks;
        let desired = self.with_unlisted_services(tables);
        let difference = table::difference::<Networks>(&self.networks, &desired, max);
        difference.apply(&mut self.networks);
        plan.writes.extend(difference.writes());
        self.networks_over_capacity = !difference.over_capacity.is_empty();
        let errors = difference.over_capacity.iter();
        plan.over_capacity.extend(errors.map(|key| CapacityError::Networks { key: *key, max }));
    }
}
