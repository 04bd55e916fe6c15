//! Compiles objects with `sluice_core` and writes the rows into the maps of a datapath.
//!
//! The only file of these tests that uses the compiler. Backend ids and slots are numbered in the
//! order of the rows, without the agent's allocator.

use std::net::IpAddr;

use packet_tests::{Datapath, NODE};
use sluice_abi::{Backend, Frontend, FrontendKey, Network, NetworkKey, map};
use sluice_core::generate::THIS_NODE;
use sluice_core::model::{Change, Object, parse_cidr};
use sluice_core::{Index, NodeContext, Tables};

/// The node's configured ServiceCIDR.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";

/// Entries that were written, to remove them again.
pub struct Realized<'a> {
    datapath: &'a Datapath,
    frontends: Vec<FrontendKey>,
    backends: Vec<u32>,
    networks: Vec<NetworkKey>,
}

fn tables(objects: &[Object]) -> Tables {
    let mut index = Index::new(THIS_NODE);
    objects.iter().for_each(|object| index.apply(Change::Apply(object.clone())));
    let context = NodeContext {
        local_addresses: vec![IpAddr::from(NODE)],
        service_cidrs: parse_cidr(SERVICE_CIDR).into_iter().collect(),
    };
    Tables::full(&index, &context)
}

impl Realized<'_> {
    /// Writes what `objects` compile to.
    pub fn write<'a>(datapath: &'a Datapath, objects: &[Object]) -> Realized<'a> {
        let tables = tables(objects);
        let mut realized = Realized {
            datapath,
            frontends: Vec::new(),
            backends: Vec::new(),
            networks: Vec::new(),
        };
        let frontends = datapath.map::<FrontendKey, Frontend>(map::FRONTENDS);
        let backends = datapath.map::<u32, Backend>(map::BACKENDS);
        let slots = datapath.map::<u32, u32>(map::SLOTS);
        let mut next_slot = 0;
        for (service, (key, row)) in (1..).zip(tables.frontends()) {
            let slots_offset = next_slot;
            for backend in &row.backends {
                let id = realized.backends.len() as u32 + 1;
                backends.update(&id, backend).unwrap();
                slots.update(&next_slot, &id).unwrap();
                realized.backends.push(id);
                next_slot += 1;
            }
            let slots_len = row.backends.len() as u32;
            let frontend = Frontend { service, slots_offset, slots_len, flags: row.flags };
            frontends.update(key, &frontend).unwrap();
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
        let frontends = self.datapath.map::<FrontendKey, Frontend>(map::FRONTENDS);
        let backends = self.datapath.map::<u32, Backend>(map::BACKENDS);
        let networks = self.datapath.map::<NetworkKey, Network>(map::NETWORKS);
        self.frontends.iter().for_each(|key| drop(frontends.delete(key)));
        self.backends.iter().for_each(|id| drop(backends.delete(id)));
        self.networks.iter().for_each(|key| drop(networks.delete(key)));
    }
}
