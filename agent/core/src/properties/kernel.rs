//! A model of the maps in memory. It carries out writes row by row and fails on a write that the
//! kernel would refuse or that changes what a running program may still use.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sluice_abi::{Backend, Frontend, FrontendKey, Network, NetworkKey, map};
use zerocopy::FromBytes;

use crate::compile::FrontendRow;
use crate::diff::{Capacity, ReadBack};
use crate::table::{Backends, Frontends, Networks, Rows, Slots, Table, Write};
use crate::tables::Tables;

/// Number of plans, including the current one, whose starting state a running program may still
/// use.
const TRACKED_PLANS: usize = 3;

/// Frontend -> effect on packets: flags, and backends in the order of the slots.
pub type Effect = BTreeMap<FrontendKey, (u32, Vec<Backend>)>;

/// One row of a write.
pub type Row<'a> = (&'static str, &'a [u8], Option<&'a [u8]>);

/// Slots and backend ids that were in use when a plan began.
#[derive(Clone, Debug, Default)]
struct InUse {
    slots: BTreeSet<u32>,
    backends: BTreeSet<u32>,
}

#[derive(Clone, Debug)]
pub struct Kernel {
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    pub slots: Vec<u32>,
    pub backends: BTreeMap<u32, Backend>,
    pub networks: BTreeMap<NetworkKey, Network>,
    pub capacity: Capacity,
    tracked: VecDeque<InUse>,
}

impl Kernel {
    pub fn new(capacity: Capacity) -> Kernel {
        Kernel {
            frontends: BTreeMap::new(),
            slots: vec![0; capacity.slots as usize],
            backends: BTreeMap::new(),
            networks: BTreeMap::new(),
            capacity,
            tracked: VecDeque::new(),
        }
    }

    /// Begins a plan.
    pub fn begin_plan(&mut self) {
        let ranges = self.frontends.values().map(|f| f.slots_offset..f.slots_offset + f.slots_len);
        self.tracked.push_front(InUse {
            slots: ranges.flatten().collect(),
            backends: self.backends.keys().copied().collect(),
        });
        self.tracked.truncate(TRACKED_PLANS);
    }

    /// The agent restarts, which takes longer than any program runs.
    pub fn agent_restarts(&mut self) {
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
                if value.is_some() {
                    assert_ne!(id, 0);
                    assert!(!self.backends.contains_key(&id), "backend id {id} is in use");
                    let used = self.tracked.iter().any(|plan| plan.backends.contains(&id));
                    assert!(!used, "backend id {id} may still be in use");
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
            map::FRONTENDS => {
                let max = self.capacity.frontends;
                set::<Frontends>(&mut self.frontends, key, value, max);
                let frontend = self.frontends.get(&read::<FrontendKey>(key));
                assert!(frontend.is_none_or(|f| f.service != 0));
            }
            other => panic!("write to {other}"),
        }
    }

    /// Effect on packets. Fails on a slot or backend that does not exist.
    pub fn effect(&self) -> Effect {
        self.frontends
            .iter()
            .map(|(key, f)| {
                let start = if f.slots_len == 0 { 0 } else { f.slots_offset as usize };
                let ids = &self.slots[start..start + f.slots_len as usize];
                let backends = ids.iter().map(|id| match self.backends.get(id) {
                    Some(backend) => *backend,
                    None => panic!("{key:?} refers to backend {id}, which does not exist"),
                });
                (*key, (f.flags, backends.collect()))
            })
            .collect()
    }

    /// The rows, as the agent reads them.
    pub fn read_back(&self) -> ReadBack {
        let mut read_back = ReadBack::from_rows(
            &rows_of::<Frontends>(&self.frontends),
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

/// The desired effect on packets.
pub fn desired_effect(tables: &Tables) -> Effect {
    let effect = |row: &FrontendRow| (row.flags, row.backends.to_vec());
    tables.frontends().map(|(key, row)| (*key, effect(row))).collect()
}
