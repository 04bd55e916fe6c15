//! Programs and maps of a node: loaded and pinned without an agent, and read for assertions.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aya::EbpfLoader;
use aya::programs::Program;
use sluice_abi::{
    Addr, Counter, DropReason, FlowEntry, FlowKey, Frontend, FrontendKey, LocalPod, Network,
    NetworkKey, NodeConfig, Outcome, ServicePort, map, pin, program,
};
use sluice_bpf::attach::{Direction, cgroup_programs, detach_device, device_programs, tcx};
use sluice_bpf::netlink::Netlink;
use sluice_bpf::{AttachType, BpfError, Map, ProgInfo, map_info, obj_get, prog_info};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub use self::maps::{Memory, freeze, memory};
use crate::{Namespaces, Node, bpf_object, ip_json};

mod maps;

/// Capacity of the larger maps where a test does not fill them.
pub const SMALL: u32 = 64;

/// The programs that the CNI binary opens.
const OF_PODS: [&str; 2] = [program::FROM_POD, program::TO_POD];

/// Loads and pins the maps, and the programs that the CNI binary opens; the larger maps are small.
pub fn load(node: &Node) {
    load_with_capacity(node, SMALL);
}

/// Loads and pins the maps with this capacity, and the programs that the CNI binary opens.
pub fn load_with_capacity(node: &Node, entries: u32) {
    load_programs(node, &OF_PODS, Some(entries));
}

/// Loads and pins maps and all programs as an agent does; `None`: with the capacities of the product.
pub fn load_all(node: &Node, entries: Option<u32>) {
    load_programs(node, &program::all().collect::<Vec<_>>(), entries);
}

fn load_programs(node: &Node, programs: &[&str], entries: Option<u32>) {
    let object = fs::read(bpf_object()).unwrap();
    node.namespaces.run(|| {
        for folder in [pin::MAPS, pin::PROGRAMS] {
            fs::create_dir_all(folder).unwrap();
        }
        let have_set_retval = 1u8;
        let mut loader = EbpfLoader::new();
        // The programs have no relocations against kernel types, so the kernel's BTF is not read.
        loader.btf(None).override_global("HAVE_SET_RETVAL", &have_set_retval, false);
        if let Some(entries) = entries {
            let tables = [map::FRONTENDS, map::SERVICES, map::SLOTS, map::BACKENDS, map::FRAGMENTS];
            for name in tables.into_iter().chain(map::FLOW_TABLES) {
                loader.map_max_entries(name, entries);
            }
        }
        for name in map::ALL {
            loader.map_pin_path(name, Path::new(pin::MAPS).join(name));
        }
        let mut ebpf = loader.load(&object).unwrap_or_else(|e| panic!("{e:?}"));
        for (name, program) in ebpf.programs_mut().filter(|(name, _)| programs.contains(name)) {
            match program {
                Program::SchedClassifier(p) => p.load(),
                Program::CgroupSockAddr(p) => p.load(),
                Program::CgroupSock(p) => p.load(),
                Program::Xdp(p) => p.load(),
                other => panic!("{name} has the type {:?}", other.prog_type()),
            }
            .unwrap_or_else(|e| panic!("{name}: {e}"));
            let path = Path::new(pin::PROGRAMS).join(name);
            program.pin(path).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    });
}

/// Removes every pin.
pub fn unload(node: &Node) {
    node.namespaces.run(|| fs::remove_dir_all("/sys/fs/bpf/sluice").unwrap());
}

/// Kernel ids of pinned maps and programs, by name.
pub fn pins(node: &Node) -> BTreeMap<String, u64> {
    node.namespaces.run(|| {
        let mut pins = BTreeMap::new();
        for folder in [pin::MAPS, pin::PROGRAMS] {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let name = entry.file_name().into_string().unwrap();
                pins.insert(name, object_id(&entry.path()));
            }
        }
        pins
    })
}

/// Path of a pinned map.
pub fn map_path(name: &str) -> PathBuf {
    Path::new(pin::MAPS).join(name)
}

/// Opens a pinned map from inside the node.
pub fn open<K, V>(name: &str) -> Map<K, V>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    Map::open_pinned(map_path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn local_pods_map<T: Send>(node: &Node, f: impl FnOnce(&Map<Addr, LocalPod>) -> T + Send) -> T {
    node.namespaces.run(|| f(&open(map::LOCAL_PODS)))
}

/// The entry of a pod's address.
pub fn local_pod(node: &Node, address: impl Into<IpAddr>) -> Option<LocalPod> {
    let key = Addr::from(address.into());
    local_pods_map(node, |map| map.lookup(&key).unwrap())
}

/// Number of local pods.
pub fn local_pods(node: &Node) -> usize {
    local_pods_map(node, |map| map.entries().unwrap().len())
}

/// Deletes the entry of a pod's address.
pub fn delete_local_pod(node: &Node, address: impl Into<IpAddr>) {
    let key = Addr::from(address.into());
    assert!(local_pods_map(node, |map| map.delete(&key).unwrap()), "no such entry");
}

/// The configuration that the programs read.
pub fn node_config(node: &Node) -> NodeConfig {
    node.namespaces
        .run(|| open::<u32, NodeConfig>(map::NODE_CONFIG).lookup(&0).unwrap().unwrap_or_default())
}

/// The entries of a node's flows.
pub fn flows(node: &Node) -> Vec<(FlowKey, FlowEntry)> {
    node.namespaces.run(|| {
        let entries = |name| open::<FlowKey, FlowEntry>(name).entries().unwrap();
        map::FLOW_TABLES.into_iter().flat_map(entries).collect()
    })
}

/// The entries of a pinned map.
pub fn entries<K, V>(node: &Node, name: &str) -> Vec<(K, V)>
where
    K: FromBytes + IntoBytes + Immutable + Send,
    V: FromBytes + IntoBytes + Immutable + Send,
{
    node.namespaces.run(|| open::<K, V>(name).entries().unwrap())
}

/// Deletes the entries of a pinned map.
pub fn delete_all<K, V>(node: &Node, name: &str)
where
    K: FromBytes + IntoBytes + Immutable + Send,
    V: FromBytes + IntoBytes + Immutable + Send,
{
    node.namespaces.run(|| {
        let map = open::<K, V>(name);
        for (key, _) in map.entries().unwrap() {
            map.delete(&key).unwrap();
        }
    });
}

/// Capacity of a pinned map.
pub fn capacity(node: &Node, name: &str) -> u32 {
    node.namespaces.run(|| map_info(obj_get(&map_path(name)).unwrap()).unwrap().max_entries)
}

/// Packets that a node dropped for this reason, over all CPUs.
pub fn dropped(node: &Node, reason: DropReason) -> u64 {
    counter(node, reason.counter_index())
}

/// Packets of a node with this outcome, over all CPUs.
pub fn outcome(node: &Node, outcome: Outcome) -> u64 {
    counter(node, outcome.counter_index())
}

fn counter(node: &Node, index: u32) -> u64 {
    node.namespaces.run(|| packets(&open(map::COUNTERS), index))
}

fn packets(counters: &Map<u32, Counter>, index: u32) -> u64 {
    let cpus = counters.lookup_per_cpu(&index).unwrap().unwrap_or_default();
    cpus.iter().map(|c| c.packets).sum()
}

/// Whether the kernel has tcx, as from Linux 6.6 on. Others refuse the attach type with EINVAL.
pub fn has_tcx() -> bool {
    let loopback = 1;
    tcx::programs(loopback, Direction::Ingress).is_ok()
}

/// Names of Sluice's programs on a device of the node: ingress, egress.
pub fn programs(node: &Node, device: &str) -> (Vec<String>, Vec<String>) {
    programs_in(&node.namespaces, device)
}

/// [`programs`] of a namespace.
pub(crate) fn programs_in(namespaces: &Namespaces, device: &str) -> (Vec<String>, Vec<String>) {
    let name = |info: ProgInfo| info.name;
    let (ingress, egress) = attached(namespaces, device);
    (ingress.into_iter().map(name).collect(), egress.into_iter().map(name).collect())
}

/// Their ids in the kernel.
pub fn program_ids(node: &Node, device: &str) -> (Vec<u64>, Vec<u64>) {
    let id = |info: ProgInfo| info.id.into();
    let (ingress, egress) = attached(&node.namespaces, device);
    (ingress.into_iter().map(id).collect(), egress.into_iter().map(id).collect())
}

fn attached(namespaces: &Namespaces, device: &str) -> (Vec<ProgInfo>, Vec<ProgInfo>) {
    let ifindex = ifindex(namespaces, device);
    namespaces.run(|| {
        let mut netlink = Netlink::open().unwrap();
        let mut on = |direction| device_programs(&mut netlink, ifindex, direction).unwrap();
        (on(Direction::Ingress), on(Direction::Egress))
    })
}

/// Names of Sluice's programs on the node's cgroup, sorted.
pub fn socket_programs(node: &Node) -> Vec<String> {
    let cgroup = fs::File::open(node.cgroup_root()).unwrap();
    let mut names: Vec<String> = program::SOCKET
        .iter()
        .flat_map(|name| {
            let hook = AttachType::from_program_name(name).unwrap();
            cgroup_programs(&cgroup, hook).unwrap()
        })
        .map(|info| info.name)
        .collect();
    names.sort();
    names
}

/// Detaches Sluice's programs from a pod's device.
pub fn detach(node: &Node, device: &str) {
    let ifindex = ifindex(&node.namespaces, device);
    node.namespaces.run(|| {
        let mut netlink = Netlink::open().unwrap();
        for (direction, name) in
            [(Direction::Ingress, program::FROM_POD), (Direction::Egress, program::TO_POD)]
        {
            assert_eq!(detach_device(&mut netlink, ifindex, direction, name).unwrap(), 1);
        }
    });
}

pub(crate) fn ifindex(namespaces: &Namespaces, device: &str) -> u32 {
    let links = ip_json(namespaces, &format!("link show dev {device}"));
    u32::try_from(links[0]["ifindex"].as_u64().unwrap()).unwrap()
}

/// Kernel id of the map or program pinned at `path`, as the calling thread sees it.
pub fn object_id(path: &Path) -> u64 {
    let fd = obj_get(path).unwrap();
    // An object that is not a map is a program.
    map_info(&fd).map_or_else(|_| prog_info(&fd).unwrap().id, |info| info.id).into()
}

/// The maps of a node as text.
pub(crate) fn dump(namespaces: &Namespaces) -> String {
    namespaces.run(|| {
        let mut text = String::new();
        dump_map::<u32, NodeConfig>(&mut text, map::NODE_CONFIG);
        dump_map::<Addr, LocalPod>(&mut text, map::LOCAL_PODS);
        dump_map::<NetworkKey, Network>(&mut text, map::NETWORKS);
        dump_map::<FrontendKey, Frontend>(&mut text, map::FRONTENDS);
        dump_map::<u32, ServicePort>(&mut text, map::SERVICES);
        for table in map::FLOW_TABLES {
            dump_map::<FlowKey, FlowEntry>(&mut text, table);
        }
        let _ = writeln!(text, "# {}", map::COUNTERS);
        if let Ok(counters) = Map::<u32, Counter>::open_pinned(map_path(map::COUNTERS)) {
            let reasons = DropReason::ALL.iter().map(|r| ("drop", r.label(), r.counter_index()));
            let outcomes = Outcome::ALL.iter().map(|o| ("outcome", o.label(), o.counter_index()));
            for (kind, label, index) in reasons.chain(outcomes) {
                let _ = writeln!(text, "{kind} {label}: {}", packets(&counters, index));
            }
        }
        text
    })
}

fn dump_map<K, V>(text: &mut String, name: &str)
where
    K: FromBytes + IntoBytes + Immutable + Debug,
    V: FromBytes + IntoBytes + Immutable + Debug,
{
    let _ = writeln!(text, "# {name}");
    let entries = Map::<K, V>::open_pinned(map_path(name))
        .and_then(|map| -> Result<_, BpfError> { map.entries() });
    match entries {
        Ok(entries) => {
            for (key, value) in entries {
                let _ = writeln!(text, "{key:?} -> {value:?}");
            }
        }
        Err(e) => {
            let _ = writeln!(text, "{e}");
        }
    }
}
