//! Tables and counters of a datapath, as text.

use std::fmt::{Debug, Write as _};

use sluice_abi::{
    Addr, Affinity, AffinityKey, Backend, BackendRow, Device, FlowEntry, FlowKey, FragmentKey,
    FragmentPorts, Frontend, FrontendKey, HostPortKey, LocalPod, Network, NetworkKey, NodeConfig,
    PodFlows, PodNetns, PodPolicy, PolicyPeerKey, PolicyPortKey, PolicyPorts, ServicePort,
    SourceRangeKey, UdpSocket, map,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::Datapath;

/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: u32 = 2;

/// The entries of all tables, and the counters that are not zero.
pub(super) fn dump(datapath: &Datapath) -> String {
    let mut dump = Dump { datapath, text: String::new() };
    dump.map::<u32, NodeConfig>(map::NODE_CONFIG);
    dump.map::<u32, Device>(map::DEVICES);
    dump.map::<Addr, LocalPod>(map::LOCAL_PODS);
    dump.map::<u32, LocalPod>(map::PODS);
    dump.map::<u32, PodFlows>(map::POD_FLOWS);
    dump.map::<u64, PodNetns>(map::POD_NETNS);
    dump.map::<NetworkKey, Network>(map::NETWORKS);
    dump.map::<FrontendKey, Frontend>(map::FRONTENDS);
    dump.map::<u32, ServicePort>(map::SERVICES);
    dump.map::<u32, u32>(map::SLOTS);
    dump.map::<u32, BackendRow>(map::BACKENDS);
    dump.map::<AffinityKey, Affinity>(map::AFFINITY);
    dump.map::<SourceRangeKey, u32>(map::SOURCE_RANGES);
    dump.map::<HostPortKey, Backend>(map::HOST_PORTS);
    dump.map::<u64, UdpSocket>(map::UDP_SOCKETS);
    dump.map::<u32, PodPolicy>(map::POD_POLICY);
    dump.map::<Addr, u64>(map::POLICY_CLASSES);
    dump.map::<NetworkKey, u64>(map::POLICY_NETWORKS);
    dump.map::<PolicyPeerKey, PolicyPorts>(map::POLICY_PEERS);
    dump.map::<PolicyPortKey, u32>(map::POLICY_PORTS);
    dump.map::<u64, u32>(map::OPEN_NAMESPACES);
    dump.map::<u32, u32>(map::POLICY_EPOCH);
    for table in map::FLOW_TABLES {
        dump.map::<FlowKey, FlowEntry>(table);
    }
    dump.map::<FragmentKey, FragmentPorts>(map::FRAGMENTS);
    dump.counters();
    dump.text
}

struct Dump<'a> {
    datapath: &'a Datapath,
    text: String,
}

impl Dump<'_> {
    /// Writes the entries of a map, of an array those that are not zero.
    fn map<K, V>(&mut self, name: &str)
    where
        K: FromBytes + IntoBytes + Immutable + Debug,
        V: FromBytes + IntoBytes + Immutable + Debug,
    {
        let _ = writeln!(self.text, "# {name}");
        let map = self.datapath.map::<K, V>(name);
        let is_array = map.info().map_type == ARRAY;
        match map.entries() {
            Ok(entries) => {
                let is_set = |(_, value): &(K, V)| {
                    !is_array || value.as_bytes().iter().any(|byte| *byte != 0)
                };
                let line = |(key, value): (K, V)| format!("{key:?} -> {value:?}\n");
                let mut lines: Vec<String> = entries.into_iter().filter(is_set).map(line).collect();
                lines.sort();
                self.text.extend(lines);
            }
            Err(e) => {
                let _ = writeln!(self.text, "{e}");
            }
        }
    }

    fn counters(&mut self) {
        let _ = writeln!(self.text, "# {}", map::COUNTERS);
        for (label, counter) in self.datapath.counters() {
            let _ = writeln!(
                self.text,
                "{label}: {} packets, {} bytes",
                counter.packets, counter.bytes
            );
        }
    }
}
