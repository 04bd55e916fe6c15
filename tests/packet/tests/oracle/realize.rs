//! Compiles objects with `sluice_core` and writes the rows into the maps of a datapath.
//!
//! The only file of these tests that uses the compiler. Backend ids and slots are numbered in the
//! order of the rows, without the agent's allocator.

use std::collections::BTreeMap;

use packet_tests::Datapath;
use sluice_abi::{
    Affinity, AffinityKey, Backend, BackendRow, Frontend, FrontendKey, Network, NetworkKey,
    ServicePort, SlotRange, SourceRangeKey, map,
};
use sluice_core::generate::THIS_NODE;
use sluice_core::model::Change;
use sluice_core::{Index, Tables};

use crate::expect::Case;

/// Entries that were written, to remove them again.
pub struct Realized<'a> {
    datapath: &'a Datapath,
    frontends: Vec<FrontendKey>,
    services: Vec<u32>,
    backends: Vec<u32>,
    networks: Vec<NetworkKey>,
    source_ranges: Vec<SourceRangeKey>,
}

fn tables(case: &Case) -> Tables {
    let mut index = Index::new(THIS_NODE);
    case.objects.iter().for_each(|object| index.apply(Change::Apply(object.clone())));
    Tables::full(&index, &case.context)
}

impl Realized<'_> {
    /// Writes what the objects of a case compile to.
    pub fn write<'a>(datapath: &'a Datapath, case: &Case) -> Realized<'a> {
        let tables = tables(case);
        let mut realized = Realized {
            datapath,
            frontends: Vec::new(),
            services: Vec::new(),
            backends: Vec::new(),
            networks: Vec::new(),
            source_ranges: Vec::new(),
        };
        let source_ranges = datapath.map::<SourceRangeKey, u32>(map::SOURCE_RANGES);
        let frontends = datapath.map::<FrontendKey, Frontend>(map::FRONTENDS);
        let backends = datapath.map::<u32, BackendRow>(map::BACKENDS);
        let slots = datapath.map::<u32, u32>(map::SLOTS);
        let services = datapath.map::<u32, ServicePort>(map::SERVICES);
        let mut next_slot = 0;
        let mut ids = BTreeMap::new();
        for (service, port) in (1..).zip(tables.ports()) {
            let mut place = |set: &[Backend]| {
                let range = SlotRange { offset: next_slot, len: set.len() as u32 };
                for backend in set {
                    let id = realized.backends.len() as u32 + 1;
                    backends.update(&id, &BackendRow::new(service, *backend)).unwrap();
                    slots.update(&next_slot, &id).unwrap();
                    realized.backends.push(id);
                    next_slot += 1;
                }
                range
            };
            let cluster = place(&port.cluster);
            let local = place(port.local.as_deref().unwrap_or_default());
            let affinity_seconds = port.affinity_seconds;
            services.update(&service, &ServicePort { cluster, local, affinity_seconds }).unwrap();
            for range in &port.source_ranges {
                let bits = if range.addr().is_ipv4() { 96 } else { 0 } + range.prefix_len();
                let (prefix_len, addr) = (32 + u32::from(bits), range.network().into());
                let key = SourceRangeKey { prefix_len, service, addr };
                source_ranges.update(&key, &1).unwrap();
                realized.source_ranges.push(key);
            }
            realized.services.push(service);
            ids.insert(&port.id, service);
        }
        for (key, frontend) in tables.frontends() {
            let service = frontend.port.map_or(0, |port| ids[&port.id]);
            frontends.update(key, &frontend.row.value(service)).unwrap();
            realized.frontends.push(*key);
        }
        let networks = datapath.map::<NetworkKey, Network>(map::NETWORKS);
        for (key, network) in tables.networks() {
            networks.update(key, network).unwrap();
            realized.networks.push(*key);
        }
        realized
    }
}

impl Drop for Realized<'_> {
    fn drop(&mut self) {
        // The entries are among the artefacts of a failed test.
        if std::thread::panicking() {
            return;
        }
        let frontends = self.datapath.map::<FrontendKey, Frontend>(map::FRONTENDS);
        let services = self.datapath.map::<u32, ServicePort>(map::SERVICES);
        let backends = self.datapath.map::<u32, BackendRow>(map::BACKENDS);
        let networks = self.datapath.map::<NetworkKey, Network>(map::NETWORKS);
        self.frontends.iter().for_each(|key| drop(frontends.delete(key)));
        self.services.iter().for_each(|id| drop(services.delete(id)));
        self.backends.iter().for_each(|id| drop(backends.delete(id)));
        self.networks.iter().for_each(|key| drop(networks.delete(key)));
        // The next case gives the ids to others.
        let affinity = self.datapath.map::<AffinityKey, Affinity>(map::AFFINITY);
        self.datapath.affinity().iter().for_each(|(key, _)| drop(affinity.delete(key)));
        let source_ranges = self.datapath.map::<SourceRangeKey, u32>(map::SOURCE_RANGES);
        self.source_ranges.iter().for_each(|key| drop(source_ranges.delete(key)));
    }
}
