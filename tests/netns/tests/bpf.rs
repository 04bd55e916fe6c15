//! sluice-bpf on the maps and programs of the product: batches, iteration, repeated attachment.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use netns_tests::{Topology, command, dataplane, ip, skip};
use sluice_abi::{Addr, BackendRow, FlowKey, LocalPod, Network, NetworkKey, PortBe, map, pin};
use sluice_bpf::attach::{
    AttachOutcome, Direction, Mechanism, attach_device, attach_device_by, clsact, detach_device,
    device_programs, tcx,
};
use sluice_bpf::netlink::Netlink;
use sluice_bpf::{Map, obj_get};
use sluice_pod::device::link_by_name;

fn pinned(name: &str) -> String {
    format!("{}/{name}", pin::MAPS)
}

/// Runs `test` inside a node whose programs and maps are loaded.
fn on_node(test: impl FnOnce() + Send) {
    let topology = Topology::new();
    let node = topology.node(1);
    dataplane::load_with_capacity(&node, 20_000);
    ip(&node.namespaces, "link add left type veth peer name right");
    node.namespaces.run(test);
}

#[test]
fn batches_of_a_hash_equal_single_calls() {
    on_node(|| {
        let map = Map::<u32, BackendRow>::open_pinned(pinned(map::BACKENDS)).unwrap();
        let backend = |id: u32| BackendRow {
            addr: Addr::v4(id.to_be_bytes()),
            port: PortBe::new(id as u16),
            proto: 6,
            ..BackendRow::default()
        };
        let ids: Vec<u32> = (1..=10_000).collect();
        let values: Vec<BackendRow> = ids.iter().map(|id| backend(*id)).collect();
        map.update_batch(&ids, &values).unwrap();
        assert_eq!(map.lookup(&7_777).unwrap(), Some(backend(7_777)));
        let all: BTreeMap<u32, BackendRow> = map.entries().unwrap().into_iter().collect();
        assert_eq!(all, ids.iter().copied().zip(values).collect());
        // Half of these do not exist.
        map.delete_batch(&(5_001..=15_000).collect::<Vec<_>>()).unwrap();
        assert_eq!(map.entries().unwrap().len(), 5_000);
        assert_eq!(map.lookup(&5_001).unwrap(), None);
        assert!(map.delete(&1).unwrap());
        assert!(!map.delete(&1).unwrap());
    });
}

#[test]
fn arrays_and_tries_support_batches() {
    on_node(|| {
        let slots = Map::<u32, u32>::open_pinned(pinned(map::SLOTS)).unwrap();
        let keys: Vec<u32> = (100..9_100).collect();
        let values: Vec<u32> = keys.iter().map(|k| k * 3).collect();
        slots.update_batch(&keys, &values).unwrap();
        assert_eq!(slots.lookup(&9_099).unwrap(), Some(9_099 * 3));

        let networks = Map::<NetworkKey, Network>::open_pinned(pinned(map::NETWORKS)).unwrap();
        let keys: Vec<NetworkKey> = (0..5_000u32)
            .map(|n| NetworkKey {
                prefix_len: 120,
                addr: Addr::v4((n << 8 | 10 << 24).to_be_bytes()),
            })
            .collect();
        networks.update_batch(&keys, &vec![Network { kind: 2 }; keys.len()]).unwrap();
        let mut read: Vec<NetworkKey> =
            networks.entries().unwrap().into_iter().map(|(key, _)| key).collect();
        read.sort();
        assert_eq!(read, keys);
        networks.delete_batch(&keys).unwrap();
        assert_eq!(networks.entries().unwrap(), []);
    });
}

#[test]
fn map_of_another_shape_is_refused() {
    on_node(|| {
        let error = Map::<u32, LocalPod>::open_pinned(pinned(map::LOCAL_PODS)).unwrap_err();
        assert!(error.to_string().contains("16-byte keys"), "{error}");
        let counters = Map::<u32, [u64; 2]>::open_pinned(pinned(map::COUNTERS)).unwrap();
        assert!(counters.lookup(&0).is_err(), "the kernel writes one value for each CPU");
        assert!(!counters.lookup_per_cpu(&0).unwrap().unwrap().is_empty());
        let absent = Map::<FlowKey, u32>::open_pinned(pinned("NONE")).unwrap_err();
        assert_eq!(absent.errno(), 2);
    });
}

#[test]
fn repeated_attachment_changes_nothing_and_another_program_is_replaced() {
    if !dataplane::has_tcx() {
        return skip("tcx needs Linux 6.6");
    }
    on_node(|| {
        let mut netlink = Netlink::open().unwrap();
        let index = link_by_name(&mut netlink, "left").unwrap().unwrap().index;
        let program = |name: &str| obj_get(format!("{}/{name}", pin::PROGRAMS).as_ref()).unwrap();
        let (from_pod, to_pod) = (program("from_pod"), program("to_pod"));
        for (mechanism, other) in
            [(Mechanism::Tcx, Mechanism::Clsact), (Mechanism::Clsact, Mechanism::Tcx)]
        {
            let mut attach = |mechanism| {
                let ingress = Direction::Ingress;
                attach_device_by(&mut netlink, index, ingress, &from_pod, mechanism).unwrap()
            };
            assert_eq!(attach(mechanism), AttachOutcome::Attached);
            assert_eq!(attach(mechanism), AttachOutcome::Unchanged);
            assert_eq!(
                attach(other),
                AttachOutcome::Unchanged,
                "an attached program keeps its mechanism"
            );
            let attached = device_programs(&mut netlink, index, Direction::Ingress).unwrap();
            assert_eq!(attached.len(), 1);
            let by_tcx = tcx::programs(index, Direction::Ingress).unwrap().len();
            assert_eq!(by_tcx, usize::from(mechanism == Mechanism::Tcx));
            let detached = detach_device(&mut netlink, index, Direction::Ingress, "from_pod");
            assert_eq!(detached.unwrap(), 1);
        }
        assert_eq!(
            attach_device(&mut netlink, index, Direction::Egress, &to_pod).unwrap(),
            AttachOutcome::Attached
        );
        assert_eq!(tcx::programs(index, Direction::Egress).unwrap()[0].name, "to_pod");
    });
}

/// A filter of another owner at the place that Sluice prefers.
#[test]
fn filters_of_other_owners_stay_beside_those_of_sluice() {
    let topology = Topology::new();
    let node = topology.node(1);
    dataplane::load(&node);
    ip(&node.namespaces, "link add left type veth peer name right");
    let tc = |arguments: &str| {
        // A bytecode is one argument with spaces.
        let arguments: Vec<String> =
            arguments.split_whitespace().map(|word| word.replace('_', " ")).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        command(&node.namespaces, "tc", &arguments)
    };
    tc("qdisc add dev left clsact");
    for (direction, name) in [(Direction::Ingress, "ingress"), (Direction::Egress, "egress")] {
        // Classic BPF filters, one of another protocol.
        tc(&format!("filter add dev left {name} prio 100 handle 1 bpf bytecode 1,6_0_0_42"));
        tc(&format!("filter add dev left {name} prio 101 protocol ip bpf bytecode 1,6_0_0_43"));
        let attach = || {
            node.namespaces.run(|| {
                let mut netlink = Netlink::open().unwrap();
                let index = link_by_name(&mut netlink, "left").unwrap().unwrap().index;
                let program = obj_get(format!("{}/to_pod", pin::PROGRAMS).as_ref()).unwrap();
                clsact::attach(&mut netlink, index, direction, program.as_fd()).unwrap()
            })
        };
        assert_eq!(attach(), AttachOutcome::Attached);
        assert_eq!(attach(), AttachOutcome::Unchanged);
        let filters = tc(&format!("filter show dev left {name}"));
        for words in ["0 0 42", "0 0 43", "pref 102 bpf", "to_pod"] {
            assert!(filters.contains(words), "{name}: {words} in {filters}");
        }
        let detached = node.namespaces.run(|| {
            let mut netlink = Netlink::open().unwrap();
            let index = link_by_name(&mut netlink, "left").unwrap().unwrap().index;
            detach_device(&mut netlink, index, direction, "to_pod").unwrap()
        });
        assert_eq!(detached, 1);
        let filters = tc(&format!("filter show dev left {name}"));
        assert!(filters.contains("0 0 42") && !filters.contains("to_pod"), "{filters}");
    }
}
