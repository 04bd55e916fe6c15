//! Service rows that tests write in the agent's place.

use std::collections::BTreeMap;

use sluice_abi::{
    Affinity, AffinityKey, Backend, BackendRow, Frontend, FrontendKey, HostPortKey, PortBe,
    ServicePort, SlotRange, SourceRangeKey, WILDCARD_PORT, WILDCARD_PROTO, frontend_flags, map,
};

use crate::Datapath;
use crate::tables::VipPort;
use crate::topology::v4;

/// Address and port of a backend.
pub type Endpoint = ([u8; 4], u16);

/// The sets of a Service port.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    /// Backends for traffic policy Cluster.
    pub cluster: Vec<Endpoint>,
    /// Backends for traffic policy Local.
    pub local: Vec<Endpoint>,
    /// Timeout of session affinity, or 0.
    pub affinity_seconds: u32,
}

impl Datapath {
    /// Writes a Service port with these backends, its ClusterIP, and the wildcard entry of the
    /// address.
    pub fn service(&self, service: u32, vip: VipPort, backends: &[Endpoint]) {
        self.service_port(service, vip.2, &Sets { cluster: backends.to_vec(), ..Sets::default() });
        self.frontend(vip, Frontend { service, flags: 0 });
        self.wildcard(vip.0);
    }

    /// Writes the wildcard entry of a ClusterIP.
    pub fn wildcard(&self, address: [u8; 4]) {
        let wildcard = Frontend { service: 0, flags: frontend_flags::WILDCARD };
        self.frontend((address, WILDCARD_PORT.get(), WILDCARD_PROTO), wildcard);
    }

    /// Writes a hostPort of a pod.
    pub fn host_port(&self, (address, port, proto): VipPort, pod: Endpoint) {
        let key = HostPortKey { addr: v4(address), port: PortBe::new(port), proto, pad: 0 };
        self.map(map::HOST_PORTS).update(&key, &backend(pod, proto)).unwrap();
    }

    /// Writes the wildcard entry of an address of a load balancer or an external IP.
    pub fn external_wildcard(&self, address: [u8; 4]) {
        let flags = frontend_flags::WILDCARD | frontend_flags::EXTERNAL;
        let wildcard = Frontend { service: 0, flags };
        self.frontend((address, WILDCARD_PORT.get(), WILDCARD_PROTO), wildcard);
    }

    /// Writes a Service port without frontends. Backend ids start at `service * 100 + 1`, slots at
    /// `service * 100`. Backends that the Service port has already keep their ids; others are removed.
    pub fn service_port(&self, service: u32, proto: u8, sets: &Sets) {
        let first = service * 100;
        let table = self.map::<u32, BackendRow>(map::BACKENDS);
        let old = table.entries().unwrap();
        let own = old.into_iter().filter(|(id, _)| id / 100 == service);
        let mut ids: BTreeMap<Backend, u32> = own.map(|(id, row)| (row.backend(), id)).collect();
        let wanted: Vec<Backend> =
            sets.cluster.iter().chain(&sets.local).map(|at| backend(*at, proto)).collect();
        for (_, id) in ids.extract_if(.., |backend, _| !wanted.contains(backend)) {
            table.delete(&id).unwrap();
        }
        for backend in wanted {
            let free = (first + 1..).find(|id| !ids.values().any(|used| used == id)).unwrap();
            let id = *ids.entry(backend).or_insert(free);
            table.update(&id, &BackendRow::new(service, backend)).unwrap();
        }
        let mut next = first;
        let mut range = |set: &[Endpoint]| {
            let offset = next;
            let mut rows: Vec<Backend> = set.iter().map(|at| backend(*at, proto)).collect();
            // The programs rely on the order.
            rows.sort_unstable();
            for row in &rows {
                self.map(map::SLOTS).update(&next, &ids[row]).unwrap();
                next += 1;
            }
            let len = rows.len() as u32;
            if len == 0 { SlotRange::default() } else { SlotRange { offset, len } }
        };
        let (cluster, local) = (range(&sets.cluster), range(&sets.local));
        let port = ServicePort { cluster, local, affinity_seconds: sets.affinity_seconds };
        self.map(map::SERVICES).update(&service, &port).unwrap();
    }

    /// Writes one backend; its id determines the Service port.
    pub fn backend(&self, id: u32, (address, port, proto): VipPort) {
        let row = BackendRow::new(id / 100, backend((address, port), proto));
        self.map(map::BACKENDS).update(&id, &row).unwrap();
    }

    /// Writes one frontend.
    pub fn frontend(&self, (address, port, proto): VipPort, frontend: Frontend) {
        let key = FrontendKey { addr: v4(address), port: PortBe::new(port), proto, pad: 0 };
        self.map(map::FRONTENDS).update(&key, &frontend).unwrap();
    }

    /// Writes a source range of a Service port; `len` is the prefix length of the IPv4 network.
    pub fn source_range(&self, service: u32, network: [u8; 4], len: u32) {
        let key = SourceRangeKey { prefix_len: 32 + 96 + len, service, addr: v4(network) };
        self.map(map::SOURCE_RANGES).update(&key, &1u32).unwrap();
    }

    /// Moves the last connections of all clients into the past.
    pub fn age_affinity(&self, seconds: u32) {
        let table = self.map::<AffinityKey, Affinity>(map::AFFINITY);
        for (key, affinity) in table.entries().unwrap() {
            let at = affinity.at.wrapping_sub(seconds);
            table.update(&key, &Affinity { at, ..affinity }).unwrap();
        }
    }

    /// The clients with session affinity, with the backends of their last connections.
    pub fn affinity(&self) -> Vec<(AffinityKey, Affinity)> {
        self.map(map::AFFINITY).entries().unwrap()
    }
}

/// The row of a backend.
fn backend((address, port): Endpoint, proto: u8) -> Backend {
    Backend { addr: v4(address), port: PortBe::new(port), proto, pad: 0 }
}
