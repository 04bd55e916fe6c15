//! Desired rows against what the kernel holds -> ops in an order that is safe at every step.
//!
//! ```text
//! put networks -> put backends -> write slots -> put frontends     (referents first)
//!                              -> delete frontends -> delete backends -> delete networks
//! ```
//! A changed frontend gets a new run of slots and is flipped to it by one map update; the old run
//! is not written again before two more plans have passed, so that no reader meets half a table.
//!
//! [`Programmed`] takes it that each plan is carried out. When an op fails, read the maps back,
//! call [`Programmed::resync`], and plan again: the plan after that compares everything.

mod read_back;
mod services;

use std::collections::BTreeMap;

pub use read_back::ReadBack;
pub use services::ServiceTables;
use sluice_abi::{Backend, Frontend, FrontendKey, Network, NetworkKey, map};

use crate::compile::ServicePortId;
use crate::slots::Run;
use crate::tables::{Changed, Tables};

/// One step of a plan: a write to one map. Steps of one sort stand together, for batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets an entry of `NETWORKS`.
    PutNetwork(NetworkKey, Network),
    /// Adds an entry to `BACKENDS`.
    PutBackend(u32, Backend),
    /// Writes neighbouring slots, which no frontend refers to yet.
    WriteSlots {
        /// First slot.
        offset: u32,
        /// Backend ids.
        ids: Vec<u32>,
    },
    /// Sets an entry of `FRONTENDS`.
    PutFrontend(FrontendKey, Frontend),
    /// Removes an entry of `FRONTENDS`.
    DeleteFrontend(FrontendKey),
    /// Removes an entry of `BACKENDS`, which no frontend refers to any more.
    DeleteBackend(u32),
    /// Removes an entry of `NETWORKS`.
    DeleteNetwork(NetworkKey),
}

/// What to write, and what else follows from it.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Ops, to be carried out in this order.
    pub ops: Vec<Op>,
    /// UDP backends that left the tables: connected sockets to them should be ended, once the ops
    /// are done. Sorted.
    pub stale_udp: Vec<Backend>,
    /// What did not fit. Frontends that stood before go on as they were; they are tried again by
    /// each later plan.
    pub refused: Vec<CapacityError>,
    /// Slots were freed lately and may be used by one of the next plans.
    room_to_come: bool,
}

impl Plan {
    /// Whether something was refused although room is being freed: plan again soon, changes or not.
    pub fn worth_retrying(&self) -> bool {
        let frees = |op: &Op| {
            matches!(op, Op::DeleteFrontend(_) | Op::DeleteBackend(_) | Op::DeleteNetwork(_))
        };
        !self.refused.is_empty() && (self.room_to_come || self.ops.iter().any(frees))
    }
}

/// Sizes of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Entries of `FRONTENDS`.
    pub frontends: u32,
    /// Entries of `SLOTS`.
    pub slots: u32,
    /// Entries of `BACKENDS`.
    pub backends: u32,
    /// Entries of `NETWORKS`.
    pub networks: u32,
}

impl Default for Capacity {
    fn default() -> Capacity {
        Capacity {
            frontends: map::FRONTENDS_MAX,
            slots: map::SLOTS_MAX,
            backends: map::BACKENDS_MAX,
            networks: map::NETWORKS_MAX,
        }
    }
}

/// A row does not fit into the maps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapacityError {
    /// No room for another frontend.
    #[error("Service {service} is not served as wanted: all {max} frontends are in use")]
    Frontends {
        /// Whose frontend it is.
        service: ServicePortId,
        /// Size of the map.
        max: u32,
    },
    /// No room for its backends.
    #[error(
        "Service {service} is not served as wanted: {wanted} more backends do not fit, {used} of \
         {max} are in use"
    )]
    Backends {
        /// Whose backends they are.
        service: ServicePortId,
        /// Backends that are not in the map yet.
        wanted: usize,
        /// Backends that are.
        used: usize,
        /// Size of the map.
        max: u32,
    },
    /// No run of slots is long enough.
    #[error(
        "Service {service} is not served as wanted: no free run of {wanted} slots ({free} of {max} \
         are free)"
    )]
    Slots {
        /// Whose slots they are.
        service: ServicePortId,
        /// Length of the run.
        wanted: u32,
        /// Free slots, in runs that are all shorter.
        free: u64,
        /// Size of the map.
        max: u32,
    },
    /// No room for another network.
    #[error("network {key:?} is not known to the programs: all {max} networks are in use")]
    Networks {
        /// The range.
        key: NetworkKey,
        /// Size of the map.
        max: u32,
    },
}

/// What the kernel holds.
#[derive(Clone, Debug)]
pub struct Programmed {
    services: ServiceTables,
    networks: BTreeMap<NetworkKey, Network>,
    capacity: Capacity,
    compare_all: bool,
}

impl Programmed {
    /// From the maps of the last run, or from [`ReadBack::default`] for empty ones.
    pub fn new(read_back: ReadBack) -> Programmed {
        Programmed::with_capacity(read_back, Capacity::default())
    }

    /// As [`Programmed::new`], for maps of another size.
    pub fn with_capacity(read_back: ReadBack, capacity: Capacity) -> Programmed {
        let networks = read_back.networks.iter().copied().collect();
        let services = ServiceTables::new(&read_back, capacity);
        Programmed { services, networks, capacity, compare_all: true }
    }

    /// Starts over from the maps, after an op failed.
    pub fn resync(&mut self, read_back: ReadBack) {
        *self = Programmed::with_capacity(read_back, self.capacity);
    }

    /// Lets the next plan compare everything, changed or not.
    pub fn compare_all(&mut self) {
        self.compare_all = true;
    }

    /// The way from here to the desired rows. `changed` says which of them differ from those of
    /// the last call; the first call after [`Programmed::new`] or [`Programmed::resync`] compares
    /// everything, and removes what nobody wants: before it, the index must be synced.
    pub fn plan(&mut self, tables: &Tables, changed: &Changed) -> Plan {
        let mut plan = Plan::default();
        let all = std::mem::take(&mut self.compare_all);
        let deleted = self.plan_networks(tables, (!all).then_some(changed), &mut plan);
        self.services.plan(tables, (!all).then_some(&changed.frontends), &mut plan);
        plan.ops.extend(deleted);
        plan
    }

    /// Services and their ids, for the command line.
    pub fn services(&self) -> &ServiceTables {
        &self.services
    }

    /// Puts go into the plan, deletions are handed back for its end.
    fn plan_networks(
        &mut self,
        tables: &Tables,
        changed: Option<&Changed>,
        plan: &mut Plan,
    ) -> Vec<Op> {
        let desired = tables.networks();
        let keys: Vec<NetworkKey> = match changed {
            Some(changed) => changed.networks.iter().copied().collect(),
            None => desired
                .keys()
                .chain(self.networks.keys().filter(|k| !desired.contains_key(k)))
                .copied()
                .collect(),
        };
        let max = self.capacity.networks;
        let mut deletions = Vec::new();
        let mut used = self.networks.len();
        for key in keys {
            match (self.networks.get(&key), desired.get(&key)) {
                (Some(have), Some(want)) if have == want => {}
                (None, None) => {}
                (Some(_), None) => {
                    self.networks.remove(&key);
                    deletions.push(Op::DeleteNetwork(key));
                }
                (None, Some(_)) if used >= max as usize => {
                    plan.refused.push(CapacityError::Networks { key, max });
                    // Networks are few and rarely change: look at all of them next time.
                    self.compare_all = true;
                }
                (have, Some(want)) => {
                    used += usize::from(have.is_none());
                    self.networks.insert(key, *want);
                    plan.ops.push(Op::PutNetwork(key, *want));
                }
            }
        }
        deletions
    }
}

/// The run that a frontend points to.
pub(crate) fn run_of(frontend: &Frontend) -> Run {
    Run { offset: frontend.slots_offset, len: frontend.slots_len }
}
