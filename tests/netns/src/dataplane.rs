//! The programs and maps on a node without an agent: loaded here, pinned where the CNI binary
//! looks for them. And what the kernel says of them, for assertions.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use aya::EbpfLoader;
use aya::programs::Program;
use sluice_abi::{Addr, Counter, LocalPod, map, pin, program};
use sluice_bpf::attach::{Direction, detach_device, device_programs};
use sluice_bpf::netlink::Netlink;
use sluice_bpf::{Map, ProgInfo, map_info, obj_get, prog_info};

use crate::{Node, bpf_object, ip_json};

/// Pins everything on the node. Maps that tests of the wiring do not fill are small.
pub fn load(node: &Node) {
    load_with_room(node, 64);
}

/// Pins everything on the node, with room for so many entries in the larger maps.
pub fn load_with_room(node: &Node, entries: u32) {
    let object = fs::read(bpf_object()).unwrap();
    node.spaces.run(|| {
        for folder in [pin::MAPS, pin::PROGRAMS] {
            fs::create_dir_all(folder).unwrap();
        }
        let have_set_retval = 1u8;
        let mut loader = EbpfLoader::new();
        loader.override_global("HAVE_SET_RETVAL", &have_set_retval, false);
        for name in [map::FRONTENDS, map::SLOTS, map::BACKENDS, map::CONNTRACK, map::FRAGMENTS] {
            loader.map_max_entries(name, entries);
        }
        for name in map::ALL {
            loader.map_pin_path(name, Path::new(pin::MAPS).join(name));
        }
        let mut ebpf = loader.load(&object).unwrap_or_else(|e| panic!("{e:?}"));
        for (name, program) in ebpf.programs_mut() {
            match program {
                Program::SchedClassifier(p) => p.load(),
                Program::CgroupSockAddr(p) => p.load(),
                other => panic!("{name} has the type {:?}", other.prog_type()),
            }
            .unwrap_or_else(|e| panic!("{name}: {e}"));
            let path = Path::new(pin::PROGRAMS).join(name);
            program.pin(path).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    });
}

/// Takes every pin away, as if Sluice had never run.
pub fn unload(node: &Node) {
    node.spaces.run(|| fs::remove_dir_all("/sys/fs/bpf/sluice").unwrap());
}

fn rows<T: Send>(node: &Node, f: impl FnOnce(&Map<Addr, LocalPod>) -> T + Send) -> T {
    node.spaces.run(|| f(&Map::open_pinned(Path::new(pin::MAPS).join(map::LOCAL_PODS)).unwrap()))
}

/// The row of a pod's address.
pub fn endpoint(node: &Node, address: impl Into<IpAddr>) -> Option<LocalPod> {
    let key = Addr::from(address.into());
    rows(node, |map| map.lookup(&key).unwrap())
}

/// How many pods the node has rows for.
pub fn endpoints(node: &Node) -> usize {
    rows(node, |map| map.entries().unwrap().len())
}

/// Takes the row of a pod's address away.
pub fn forget_endpoint(node: &Node, address: impl Into<IpAddr>) {
    let key = Addr::from(address.into());
    assert!(rows(node, |map| map.delete(&key).unwrap()), "there was none");
}

/// How often a counter (a number of a drop reason or of an outcome) moved, over all CPUs.
pub fn counter(node: &Node, index: u32) -> u64 {
    node.spaces.run(|| {
        let map: Map<u32, Counter> =
            Map::open_pinned(Path::new(pin::MAPS).join(map::COUNTERS)).unwrap();
        let cpus = map.lookup_per_cpu(&index).unwrap().unwrap_or_default();
        cpus.iter().map(|c| c.packets).sum()
    })
}

/// Names of our programs on a device of the node: of ingress, of egress.
pub fn programs(node: &Node, device: &str) -> (Vec<String>, Vec<String>) {
    let name = |info: ProgInfo| info.name;
    let (ingress, egress) = attached(node, device);
    (ingress.into_iter().map(name).collect(), egress.into_iter().map(name).collect())
}

/// Their ids in the kernel.
pub fn program_ids(node: &Node, device: &str) -> (Vec<u64>, Vec<u64>) {
    let id = |info: ProgInfo| info.id.into();
    let (ingress, egress) = attached(node, device);
    (ingress.into_iter().map(id).collect(), egress.into_iter().map(id).collect())
}

fn attached(node: &Node, device: &str) -> (Vec<ProgInfo>, Vec<ProgInfo>) {
    let ifindex = ifindex(node, device);
    node.spaces.run(|| {
        let mut netlink = Netlink::open().unwrap();
        let mut on = |direction| device_programs(&mut netlink, ifindex, direction).unwrap();
        (on(Direction::Ingress), on(Direction::Egress))
    })
}

/// Takes our programs off a pod's device.
pub fn detach(node: &Node, device: &str) {
    let ifindex = ifindex(node, device);
    node.spaces.run(|| {
        let mut netlink = Netlink::open().unwrap();
        for (direction, name) in
            [(Direction::Ingress, program::FROM_POD), (Direction::Egress, program::TO_POD)]
        {
            assert_eq!(detach_device(&mut netlink, ifindex, direction, name).unwrap(), 1);
        }
    });
}

fn ifindex(node: &Node, device: &str) -> u32 {
    let links = ip_json(&node.spaces, &format!("link show dev {device}"));
    u32::try_from(links[0]["ifindex"].as_u64().unwrap()).unwrap()
}

/// Id in the kernel of what is pinned at `path`, seen from the calling thread.
pub fn object_id(path: &Path) -> u64 {
    let fd = obj_get(path).unwrap();
    // What is no map is a program.
    map_info(&fd).map_or_else(|_| prog_info(&fd).unwrap().id, |info| info.id).into()
}
