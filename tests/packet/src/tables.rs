//! Table entries that tests write in the agent's and the CNI binary's place.

use sluice_abi::{
    Addr, Backend, FlowEntry, FlowKey, Frontend, FrontendKey, LocalPod, Network, NetworkKey,
    NodeConfig, PortBe, WILDCARD_PORT, WILDCARD_PROTO, frontend_flags, map, network_kind,
    node_flags,
};

use crate::Datapath;
use crate::topology::{
    CLIENT, CLIENT_IFINDEX, GATEWAY, HOST_MAC, NODE, OTHER_NODE, SERVER, SERVER_IFINDEX,
    SNAT_PORTS, pod_mac, v4,
};

/// Address, port and protocol of a frontend.
pub type VipPort = ([u8; 4], u16, u8);

/// The configuration of the node in `topology.rs`.
pub fn node_config() -> NodeConfig {
    NodeConfig {
        addrs: [v4(NODE), Addr::UNSPECIFIED],
        gateways: [v4(GATEWAY), Addr::UNSPECIFIED],
        flags: node_flags::READY | node_flags::MASQUERADE,
        snat_port_min: SNAT_PORTS.0,
        snat_port_max: SNAT_PORTS.1,
        mtu: 1500,
    }
}

impl Datapath {
    /// Writes the node's configuration, pods and networks.
    pub fn configure_node(&self) {
        self.node_config(&node_config());
        self.local_pod(CLIENT, CLIENT_IFINDEX);
        self.local_pod(SERVER, SERVER_IFINDEX);
        for (address, len, kind) in [
            ([10, 244, 1, 0], 24, network_kind::LOCAL_PODS),
            ([10, 244, 2, 0], 24, network_kind::REMOTE_PODS),
            ([10, 96, 0, 0], 16, network_kind::SERVICES),
            (NODE, 32, network_kind::THIS_NODE),
            (OTHER_NODE, 32, network_kind::OTHER_NODE),
        ] {
            self.network(address, len, kind);
        }
    }

    /// Writes the configuration of the node.
    pub fn node_config(&self, config: &NodeConfig) {
        self.map(map::NODE_CONFIG).update(&0u32, config).unwrap();
    }

    /// Writes a pod of this node.
    pub fn local_pod(&self, address: [u8; 4], ifindex: u32) {
        let pod = LocalPod { ifindex, pod_mac: pod_mac(address), host_mac: HOST_MAC };
        self.map(map::LOCAL_PODS).update(&v4(address), &pod).unwrap();
    }

    /// Writes a network; `len` is the prefix length of the IPv4 network.
    pub fn network(&self, address: [u8; 4], len: u32, kind: u32) {
        let key = NetworkKey { prefix_len: 96 + len, addr: v4(address) };
        self.map(map::NETWORKS).update(&key, &Network { kind }).unwrap();
    }

    /// Writes a Service port with these backends, and the wildcard entry of its address. Backend
    /// ids start at `service * 100 + 1`, slots at `service * 100`.
    pub fn service(&self, service: u32, vip: VipPort, backends: &[([u8; 4], u16)]) {
        let offset = service * 100;
        for (n, &(address, port)) in (0..).zip(backends) {
            let id = offset + 1 + n;
            let backend =
                Backend { addr: v4(address), port: PortBe::new(port), proto: vip.2, pad: 0 };
            self.map(map::BACKENDS).update(&id, &backend).unwrap();
            self.map(map::SLOTS).update(&(offset + n), &id).unwrap();
        }
        let slots_len = backends.len() as u32;
        let frontend = Frontend { service, slots_offset: offset, slots_len, ..Frontend::default() };
        self.frontend(vip, frontend);
        let flags = frontend_flags::WILDCARD;
        let wildcard = Frontend { service, flags, ..Frontend::default() };
        self.frontend((vip.0, WILDCARD_PORT.get(), WILDCARD_PROTO), wildcard);
    }

    /// Writes one frontend.
    pub fn frontend(&self, (address, port, proto): VipPort, frontend: Frontend) {
        let key = FrontendKey { addr: v4(address), port: PortBe::new(port), proto, pad: 0 };
        self.map(map::FRONTENDS).update(&key, &frontend).unwrap();
    }

    /// Ids of the backends with this address, port and protocol.
    ///
    /// # Panics
    /// If there is none.
    fn backend_ids(&self, (address, port, proto): VipPort) -> Vec<u32> {
        let wanted = Backend { addr: v4(address), port: PortBe::new(port), proto, pad: 0 };
        let entries = self.map::<u32, Backend>(map::BACKENDS).entries().unwrap();
        let ids: Vec<u32> =
            entries.iter().filter(|(_, b)| *b == wanted).map(|(id, _)| *id).collect();
        assert!(!ids.is_empty(), "no backend {wanted:?} among {entries:?}");
        ids
    }

    /// Removes every backend with this address, port and protocol.
    pub fn remove_backend(&self, backend: VipPort) {
        for id in self.backend_ids(backend) {
            self.map::<u32, Backend>(map::BACKENDS).delete(&id).unwrap();
        }
    }

    /// Gives the ids of a backend to another one.
    pub fn reuse_backend_id(&self, old: VipPort, (address, port): ([u8; 4], u16)) {
        let new = Backend { addr: v4(address), port: PortBe::new(port), proto: old.2, pad: 0 };
        for id in self.backend_ids(old) {
            self.map(map::BACKENDS).update(&id, &new).unwrap();
        }
    }

    /// Changes the range of ports for source translation.
    pub fn snat_ports(&self, min: u16, max: u16) {
        self.node_config(&NodeConfig { snat_port_min: min, snat_port_max: max, ..node_config() });
    }

    /// Makes every conntrack entry older.
    pub fn age_flows(&self, seconds: u64) {
        let map = self.conntrack();
        for (key, mut entry) in self.flows() {
            entry.last_seen_ns = entry.last_seen_ns.saturating_sub(seconds * 1_000_000_000);
            map.update(&key, &entry).unwrap();
        }
    }

    /// The conntrack entry of one direction, with its key.
    pub fn flow(
        &self,
        proto: u8,
        (src, sport): ([u8; 4], u16),
        (dst, dport): ([u8; 4], u16),
    ) -> (FlowKey, Option<FlowEntry>) {
        let key = FlowKey {
            src: v4(src),
            dst: v4(dst),
            sport: PortBe::new(sport),
            dport: PortBe::new(dport),
            proto,
            pad: [0; 3],
        };
        (key, self.conntrack().lookup(&key).unwrap())
    }
}
