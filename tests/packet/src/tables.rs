//! Table entries that tests write in the agent's and the CNI binary's place.

use sluice_abi::{
    Addr, Backend, BackendRow, Device, FlowEntry, FlowKey, LocalPod, Network, NetworkKey,
    NodeConfig, PodNetns, PortBe, PortRange, device_flags, map, namespace_id, network_kind,
    node_flags, ticks,
};

use crate::topology::{
    CLIENT, CLIENT_IFINDEX, GATEWAY, HOST_MAC, NODE, OTHER_IFINDEX, OTHER_NODE, SECOND_IFINDEX,
    SECOND_NODE, SERVER, SERVER_IFINDEX, SNAT_PORTS, UPLINK_IFINDEX, pod_mac, v4,
};
use crate::{Datapath, netns_cookie};

/// Namespace of the pods of this node.
pub const NAMESPACE: &str = "default";

/// Address, port and protocol of a frontend.
pub type VipPort = ([u8; 4], u16, u8);

/// The configuration of the node in `topology.rs`.
pub fn node_config() -> NodeConfig {
    NodeConfig {
        addrs: [v4(NODE), Addr::UNSPECIFIED],
        gateways: [v4(GATEWAY), Addr::UNSPECIFIED],
        flags: node_flags::READY | node_flags::MASQUERADE,
        snat_key: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
        snat_ports: port_ranges(&[SNAT_PORTS]),
        netns_cookie: 0,
        flows_per_pod: map::FLOWS_MAX / 2,
        flows_without_pod: map::FLOWS_MAX / 2,
        mtu: 1500,
    }
}

/// Up to four ranges of ports, both ends included.
pub fn port_ranges(ranges: &[(u16, u16)]) -> [PortRange; 4] {
    let mut of_config = [PortRange::default(); 4];
    for (to, &(first, last)) in of_config.iter_mut().zip(ranges) {
        *to = PortRange { first, last };
    }
    of_config
}

impl Datapath {
    /// Writes the node's configuration, pods and networks.
    pub fn configure_node(&self) {
        self.node_config(&node_config());
        self.map(map::OPEN_NAMESPACES).update(&namespace_id(NAMESPACE), &1u32).unwrap();
        self.devices();
        self.local_pod(CLIENT, CLIENT_IFINDEX);
        self.local_pod(SERVER, SERVER_IFINDEX);
        for (address, len, kind) in [
            ([10, 244, 1, 0], 24, network_kind::LOCAL_PODS),
            ([10, 244, 2, 0], 24, network_kind::REMOTE_PODS),
            ([10, 96, 0, 0], 16, network_kind::SERVICES),
            (NODE, 32, network_kind::THIS_NODE),
            (SECOND_NODE, 32, network_kind::THIS_NODE),
            (OTHER_NODE, 32, network_kind::OTHER_NODE),
        ] {
            self.network(address, len, kind);
        }
    }

    /// Writes the devices that the agent has seen.
    pub fn devices(&self) {
        self.device(UPLINK_IFINDEX, NODE, device_flags::MANAGED);
        self.device(SECOND_IFINDEX, SECOND_NODE, device_flags::MANAGED);
        self.device(OTHER_IFINDEX, [192, 168, 10, 2], 0);
    }

    /// Writes a device.
    pub fn device(&self, ifindex: u32, address: [u8; 4], flags: u32) {
        let flags = flags | self.xdp_flags;
        let device = Device { addr: v4(address), flags, mac: HOST_MAC, pad: [0; 2] };
        self.map(map::DEVICES).update(&ifindex, &device).unwrap();
    }

    /// Writes the configuration of the node.
    pub fn node_config(&self, config: &NodeConfig) {
        self.map(map::NODE_CONFIG).update(&0u32, config).unwrap();
    }

    /// Writes a pod of this node.
    pub fn local_pod(&self, address: [u8; 4], ifindex: u32) {
        self.local_pod_of_generation(address, ifindex, 1);
    }

    /// Writes a pod of this node, whose index is the last byte of its address.
    pub fn local_pod_of_generation(&self, address: [u8; 4], ifindex: u32, generation: u16) {
        let (pod_mac, host_mac) = (pod_mac(address), HOST_MAC);
        let index = u16::from(address[3]);
        let namespace = namespace_id(NAMESPACE);
        let pod = LocalPod { namespace, ifindex, pod_mac, host_mac, index, generation, pad: 0 };
        self.map(map::PODS).update(&u32::from(index), &pod).unwrap();
        self.map(map::LOCAL_PODS).update(&v4(address), &pod).unwrap();
    }

    /// Makes this process one of a pod to the programs: its network namespace is that of the pod.
    pub fn enter_pod(&self, address: [u8; 4]) {
        let pod = PodNetns { addrs: [v4(address), Addr::UNSPECIFIED] };
        self.map(map::POD_NETNS).update(&netns_cookie(), &pod).unwrap();
    }

    /// Makes this process one of no pod.
    pub fn leave_pod(&self) {
        self.map::<u64, PodNetns>(map::POD_NETNS).delete(&netns_cookie()).unwrap();
    }

    /// Writes a network; `len` is the prefix length of the IPv4 network.
    pub fn network(&self, address: [u8; 4], len: u32, kind: u32) {
        let key = NetworkKey { prefix_len: 96 + len, addr: v4(address) };
        self.map(map::NETWORKS).update(&key, &Network { kind }).unwrap();
    }

    /// Ids of the backends with this address, port and protocol.
    ///
    /// # Panics
    /// If there is none.
    fn backend_ids(&self, (address, port, proto): VipPort) -> Vec<u32> {
        let wanted = Backend { addr: v4(address), port: PortBe::new(port), proto, pad: 0 };
        let entries = self.map::<u32, BackendRow>(map::BACKENDS).entries().unwrap();
        let ids: Vec<u32> =
            entries.iter().filter(|(_, row)| row.backend() == wanted).map(|(id, _)| *id).collect();
        assert!(!ids.is_empty(), "no backend {wanted:?} among {entries:?}");
        ids
    }

    /// Removes every backend with this address, port and protocol.
    pub fn remove_backend(&self, backend: VipPort) {
        for id in self.backend_ids(backend) {
            self.map::<u32, BackendRow>(map::BACKENDS).delete(&id).unwrap();
        }
    }

    /// Gives the ids of a backend to another one.
    pub fn reuse_backend_id(&self, old: VipPort, (address, port): ([u8; 4], u16)) {
        let new = Backend { addr: v4(address), port: PortBe::new(port), proto: old.2, pad: 0 };
        for id in self.backend_ids(old) {
            let row = BackendRow::new(id / 100, new);
            self.map(map::BACKENDS).update(&id, &row).unwrap();
        }
    }

    /// Changes the range of ports for source translation.
    pub fn snat_ports(&self, min: u16, max: u16) {
        let snat_ports = port_ranges(&[(min, max)]);
        self.node_config(&NodeConfig { snat_ports, ..node_config() });
    }

    /// Makes every flow older.
    pub fn age_flows(&self, seconds: u32) {
        for name in map::FLOW_TABLES {
            let table = self.map::<FlowKey, FlowEntry>(name);
            for (key, mut entry) in table.entries().unwrap() {
                entry.seen = entry.seen.wrapping_sub(ticks(seconds));
                entry.since = entry.since.wrapping_sub(ticks(seconds) as u16);
                table.update(&key, &entry).unwrap();
            }
        }
    }

    /// The entry with this key in any flow table.
    pub fn entry(&self, key: &FlowKey) -> Option<FlowEntry> {
        let lookup = |name| self.map::<FlowKey, FlowEntry>(name).lookup(key).unwrap();
        map::FLOW_TABLES.into_iter().find_map(lookup)
    }

    /// Removes the entry with this key from every flow table; returns whether there was one.
    pub fn remove_entry(&self, key: &FlowKey) -> bool {
        let delete = |name| self.map::<FlowKey, FlowEntry>(name).delete(key).unwrap();
        map::FLOW_TABLES.into_iter().filter(|name| delete(name)).count() > 0
    }

    /// The tuple to which a packet with this tuple is translated, by the entries of its flow.
    pub fn translation(&self, tuple: &FlowKey) -> Option<FlowKey> {
        let flows = self.flows();
        flows.iter().find_map(|flow| {
            if flow.other == *tuple {
                Some(flow.tuple)
            } else if flow.tuple.reversed() == *tuple {
                Some(flow.other.reversed())
            } else {
                None
            }
        })
    }
}

/// A tuple.
pub fn tuple(proto: u8, (src, sport): ([u8; 4], u16), (dst, dport): ([u8; 4], u16)) -> FlowKey {
    FlowKey {
        src: v4(src),
        dst: v4(dst),
        sport: PortBe::new(sport),
        dport: PortBe::new(dport),
        proto,
        ..FlowKey::default()
    }
}
