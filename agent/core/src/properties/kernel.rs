//! A model of the maps in memory. It carries out writes row by row and fails on a write that the
//! kernel would refuse or that changes what a running program may still use.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sluice_abi::{
    Backend, BackendRow, Frontend, FrontendKey, Network, NetworkKey, ServicePort, SlotRange,
    SourceRangeKey, frontend_flags, map,
};
use zerocopy::FromBytes;

use crate::compile::Treatment;
use crate::diff::{Capacity, ReadBack};
use crate::table::{
    Backends, Frontends, Networks, Rows, Services, Slots, SourceRanges, Table, Write,
};
use crate::tables::Tables;

/// Number of plans, including the current one, whose starting state a running program may still
/// use.
const TRACKED_PLANS: usize = 3;

/// What happens to a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The wildcard row of an address: unknown port.
    UnknownPort,
    Reject,
    Drop,
    /// Backends in the order of the slots.
    Forward(Vec<Backend>),
}

/// Frontend -> what happens to connections of clients on this node, and of others.
pub type Effect = BTreeMap<FrontendKey, [Fate; 2]>;

/// One row of a write.
pub type Row<'a> = (&'static str, &'a [u8], Option<&'a [u8]>);

/// Slots and ids that were in use when a plan began.
#[derive(Clone, Debug, Default)]
struct InUse {
    slots: BTreeSet<u32>,
    backends: BTreeSet<u32>,
    services: BTreeSet<u32>,
}

#[derive(Clone, Debug)]
pub struct Kernel {
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    pub services: BTreeMap<u32, ServicePort>,
    pub source_ranges: BTreeMap<SourceRangeKey, u32>,
    pub slots: Vec<u32>,
    pub backends: BTreeMap<u32, BackendRow>,
    pub networks: BTreeMap<NetworkKey, Network>,
    pub capacity: Capacity,
    tracked: VecDeque<InUse>,
}

impl Kernel {
    pub fn new(capacity: Capacity) -> Kernel {
        Kernel {
            frontends: BTreeMap::new(),
            services: BTreeMap::new(),
            source_ranges: BTreeMap::new(),
            slots: vec![0; capacity.slots as usize],
            backends: BTreeMap::new(),
            networks: BTreeMap::new(),
            capacity,
            tracked: VecDeque::new(),
        }
    }

    /// Begins a plan.
    pub fn begin_plan(&mut self) {
        let ranges = self.services.values().flat_map(|port| [port.cluster, port.local]);
        self.tracked.push_front(InUse {
            slots: ranges.flat_map(|range| range.offset..range.offset + range.len).collect(),
            backends: self.backends.keys().copied().collect(),
            services: self.services.keys().copied().collect(),
        });
        self.tracked.truncate(TRACKED_PLANS);
    }

    /// The agent restarts, which takes longer than any program runs.
    pub fn agent_restarts(&mut self) {
        self.tracked.clear();
    }

    /// Larger maps with the same rows replace the present ones. No program has used them.
    pub fn replace_maps(&mut self, capacity: Capacity) {
        assert!(capacity.growing().zip(self.capacity.growing()).all(|(new, old)| new >= old));
        self.slots.resize(capacity.slots as usize, 0);
        self.capacity = capacity;
        self.tracked.clear();
    }

    /// Carries out one row.
    pub fn apply(&mut self, (table, key, value): Row<'_>) {
        match table {
            map::NETWORKS => {
                let max = self.capacity.networks;
                set::<Networks>(&mut self.networks, key, value, max);
            }
            map::BACKENDS => {
                let id = read::<u32>(key);
                if let Some(value) = value {
                    assert_ne!(id, 0);
                    let new = read::<BackendRow>(value).backend();
                    match self.backends.get(&id) {
                        // The row may get another Service port.
                        Some(old) => assert_eq!(old.backend(), new, "backend id {id} is in use"),
                        None => {
                            let used = self.tracked.iter().any(|plan| plan.backends.contains(&id));
                            assert!(!used, "backend id {id} may still be in use");
                        }
                    }
                }
                let max = self.capacity.backends;
                set::<Backends>(&mut self.backends, key, value, max);
            }
            map::SLOTS => {
                let slot = read::<u32>(key);
                let used = self.tracked.iter().any(|plan| plan.slots.contains(&slot));
                assert!(!used, "slot {slot} may still be in use");
                self.slots[slot as usize] = read(value.expect("arrays have no deletion"));
            }
            map::SERVICES => {
                let id = read::<u32>(key);
                if value.is_some() && !self.services.contains_key(&id) {
                    assert_ne!(id, 0);
                    let used = self.tracked.iter().any(|plan| plan.services.contains(&id));
                    assert!(!used, "service id {id} may still be in use");
                }
                let max = self.capacity.services;
                set::<Services>(&mut self.services, key, value, max);
            }
            map::SOURCE_RANGES => {
                let max = self.capacity.source_ranges;
                set::<SourceRanges>(&mut self.source_ranges, key, value, max);
            }
            map::FRONTENDS => {
                let max = self.capacity.frontends;
                set::<Frontends>(&mut self.frontends, key, value, max);
                let frontend = self.frontends.get(&read::<FrontendKey>(key));
                let is_wildcard = |f: &Frontend| f.flags & frontend_flags::WILDCARD != 0;
                assert!(frontend.is_none_or(|f| is_wildcard(f) == (f.service == 0)));
            }
            other => panic!("write to {other}"),
        }
    }

    /// Fails on a frontend whose source ranges are not in the map: it accepts no client.
    pub fn require_source_ranges(&self) {
        let limited = |f: &&Frontend| f.flags & frontend_flags::SOURCE_RANGES != 0;
        for frontend in self.frontends.values().filter(limited) {
            let service = frontend.service;
            let has_range = self.source_ranges.keys().any(|key| key.service == service);
            assert!(has_range, "{frontend:?} accepts no client");
        }
    }

    /// Fails on a frontend that is open to all clients although it is to be limited.
    pub fn require_limits(&self, tables: &Tables) {
        for (key, frontend) in &self.frontends {
            let is_to_be = tables.frontend(key).is_some_and(|f| f.row.limited && !f.row.wildcard);
            let is_limited = frontend.flags & frontend_flags::SOURCE_RANGES != 0;
            assert!(!is_to_be || is_limited, "{key:?} is open to all clients");
        }
    }

    /// Effect on packets. Fails on a Service port, slot or backend that does not exist.
    pub fn effect(&self) -> Effect {
        let effect = |f: &Frontend| [true, false].map(|here| self.fate(f, here));
        self.frontends.iter().map(|(key, frontend)| (*key, effect(frontend))).collect()
    }

    fn fate(&self, frontend: &Frontend, client_on_this_node: bool) -> Fate {
        if frontend.flags & frontend_flags::WILDCARD != 0 {
            return Fate::UnknownPort;
        }
        let Some(port) = self.services.get(&frontend.service) else {
            panic!("{frontend:?} refers to a Service port that does not exist");
        };
        let backends = |range: SlotRange| {
            let start = if range.len == 0 { 0 } else { range.offset as usize };
            let ids = &self.slots[start..start + range.len as usize];
            let backends = ids.iter().map(|id| match self.backends.get(id) {
                Some(row) => row.backend(),
                None => panic!("{frontend:?} refers to backend {id}, which does not exist"),
            });
            backends.collect()
        };
        match (port.cluster, port.local, frontend.uses_local_set(client_on_this_node)) {
            (SlotRange { len: 0, .. }, ..) => Fate::Reject,
            (_, SlotRange { len: 0, .. }, true) => Fate::Drop,
            (_, local, true) => Fate::Forward(backends(local)),
            (cluster, _, false) => Fate::Forward(backends(cluster)),
        }
    }

    /// The rows, as the agent reads them.
    pub fn read_back(&self) -> ReadBack {
        let mut read_back = ReadBack::from_rows(
            &rows_of::<Frontends>(&self.frontends),
            &rows_of::<Services>(&self.services),
            &rows_of::<SourceRanges>(&self.source_ranges),
            &rows_of::<Backends>(&self.backends),
            &rows_of::<Networks>(&self.networks),
        );
        let slots = read_back.slot_keys(self.capacity.slots);
        let slots = slots.into_iter().map(|slot| (slot, self.slots[slot as usize]));
        read_back.add_slots(&Rows::of::<Slots>(slots));
        read_back
    }
}

/// The rows of a plan, one by one.
pub fn rows(writes: &[Write]) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for write in writes {
        let name = write.table().name;
        rows.extend(write.rows().map(|(key, value)| (name, key, value)));
    }
    rows
}

fn rows_of<T: Table>(rows: &BTreeMap<T::Key, T::Value>) -> Rows {
    Rows::of::<T>(rows.iter().map(|(key, value)| (*key, *value)))
}

/// Sets or deletes one entry of a map with `max` entries.
fn set<T: Table>(
    rows: &mut BTreeMap<T::Key, T::Value>,
    key: &[u8],
    value: Option<&[u8]>,
    max: u32,
) {
    let key = read::<T::Key>(key);
    match value {
        Some(value) => {
            rows.insert(key, read(value));
            assert!(rows.len() <= max as usize, "{} is full", T::SPEC.name);
        }
        None => assert!(rows.remove(&key).is_some(), "deletion of absent {key:?}"),
    }
}

fn read<T: FromBytes>(bytes: &[u8]) -> T {
    T::read_from_bytes(bytes).expect("size of the type")
}

impl From<Treatment<'_>> for Fate {
    fn from(treatment: Treatment<'_>) -> Fate {
        match treatment {
            Treatment::Forward(backends) => Fate::Forward(backends.to_vec()),
            Treatment::Reject => Fate::Reject,
            Treatment::Drop => Fate::Drop,
        }
    }
}

/// The desired effect on packets.
pub fn desired_effect(tables: &Tables) -> Effect {
    let effects = tables.frontends().map(|(key, frontend)| {
        let fates = [true, false].map(|here| match frontend.port {
            None => Fate::UnknownPort,
            Some(_) => frontend.treatment(here).into(),
        });
        (*key, fates)
    });
    effects.collect()
}
