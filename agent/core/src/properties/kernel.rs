//! The kernel's maps in memory, which carry out ops and look for a half-made Service after each.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use sluice_abi::{Backend, Frontend, FrontendKey, Network, NetworkKey};

use crate::diff::{Capacity, Op, ReadBack, run_of};
use crate::tables::Tables;

/// Frontend -> what a packet to it meets: flags, affinity and backends in the order of the slots.
pub type Meaning = BTreeMap<FrontendKey, (u32, Vec<Backend>)>;

#[derive(Clone, Debug)]
pub struct Kernel {
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    pub slots: Vec<u32>,
    pub backends: BTreeMap<u32, Backend>,
    pub networks: BTreeMap<NetworkKey, Network>,
    pub capacity: Capacity,
    /// Slots that frontends referred to before this plan, and before the last one: a reader may
    /// still be on its way to them.
    read_lately: [BTreeSet<u32>; 2],
}

impl Kernel {
    pub fn new(capacity: Capacity) -> Kernel {
        Kernel {
            frontends: BTreeMap::new(),
            slots: vec![0; capacity.slots as usize],
            backends: BTreeMap::new(),
            networks: BTreeMap::new(),
            capacity,
            read_lately: [BTreeSet::new(), BTreeSet::new()],
        }
    }

    /// Says that a new plan begins.
    pub fn begin_plan(&mut self) {
        let in_use = self
            .frontends
            .values()
            .flat_map(|f| f.slots_offset..f.slots_offset.saturating_add(f.slots_len));
        let before = mem::replace(&mut self.read_lately[0], in_use.collect());
        self.read_lately[1] = before;
    }

    /// Reading the maps back takes so long that no reader is on its way any more.
    pub fn readers_leave(&mut self) {
        self.read_lately = [BTreeSet::new(), BTreeSet::new()];
    }

    /// Carries out one op; panics if the kernel would refuse it, or if it harms what is in use.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::PutNetwork(key, value) => {
                self.networks.insert(*key, *value);
                assert!(self.networks.len() <= self.capacity.networks as usize, "{op:?}");
            }
            Op::PutBackend(id, backend) => {
                assert_ne!(*id, 0);
                assert!(self.backends.insert(*id, *backend).is_none(), "{op:?} was in use");
                assert!(self.backends.len() <= self.capacity.backends as usize, "{op:?}");
            }
            Op::WriteSlots { offset, ids } => {
                let start = *offset as usize;
                let written = *offset..*offset + u32::try_from(ids.len()).expect("short");
                for slots in &self.read_lately {
                    assert!(slots.range(written.clone()).next().is_none(), "{op:?} is read");
                }
                self.slots[start..start + ids.len()].copy_from_slice(ids);
            }
            Op::PutFrontend(key, frontend) => {
                assert_ne!(frontend.service, 0);
                self.frontends.insert(*key, *frontend);
                assert!(self.frontends.len() <= self.capacity.frontends as usize, "{op:?}");
            }
            Op::DeleteFrontend(key) => {
                assert!(self.frontends.remove(key).is_some(), "{op:?} was not there");
            }
            Op::DeleteBackend(id) => {
                assert!(self.backends.remove(id).is_some(), "{op:?} was not there");
            }
            Op::DeleteNetwork(key) => {
                assert!(self.networks.remove(key).is_some(), "{op:?} was not there");
            }
        }
    }

    /// What packets meet; panics on a slot or a backend that is not there.
    pub fn meaning(&self) -> Meaning {
        self.frontends
            .iter()
            .map(|(key, f)| {
                let start = if f.slots_len == 0 { 0 } else { f.slots_offset as usize };
                let ids = &self.slots[start..start + f.slots_len as usize];
                let backends = ids.iter().map(|id| match self.backends.get(id) {
                    Some(backend) => *backend,
                    None => panic!("{key:?} leads to backend {id}, which is not there"),
                });
                (*key, (f.flags, backends.collect()))
            })
            .collect()
    }

    /// As the agent reads it at start.
    pub fn read_back(&self) -> ReadBack {
        let mut read_back = ReadBack {
            frontends: self.frontends.iter().map(|(k, v)| (*k, *v)).collect(),
            backends: self.backends.iter().map(|(k, v)| (*k, *v)).collect(),
            networks: self.networks.iter().map(|(k, v)| (*k, *v)).collect(),
            slots: BTreeMap::new(),
        };
        for (_, f) in &read_back.frontends {
            let start = f.slots_offset as usize;
            if let Some(ids) = self.slots.get(start..start.saturating_add(f.slots_len as usize)) {
                read_back.slots.insert(run_of(f), ids.to_vec());
            }
        }
        read_back
    }
}

/// What packets should meet.
pub fn wanted(tables: &Tables) -> Meaning {
    let meaning = |row: &crate::compile::FrontendRow| (row.flags, row.backends.clone());
    tables.frontends().map(|(key, row)| (*key, meaning(row))).collect()
}
