//! Limits of the specification that the CNI binary shows.

use netns_tests::cni::code;
use netns_tests::{CniCall, Topology, dataplane};
use serde_json::json;
use sluice_abi::{Addr, FlowEntry, FlowKey, LocalPod, PortBe, map, proto};

use crate::{assert_no_pod, devices, node, pod_devices_and_routes, with};

/// Commands of bpf(2) that read more than one entry (`enum bpf_cmd` in linux/bpf.h): `BPF_MAP_GET_NEXT_KEY`,
/// `BPF_MAP_LOOKUP_BATCH`, `BPF_MAP_LOOKUP_AND_DELETE_BATCH`.
const ITERATIONS: [u64; 3] = [4, 24, 25];

/// Rows of the map of pods: one more than a node can have pods.
const PODS_PER_NODE: u32 = 4096;

#[test]
fn range_of_28_bits_holds_thirteen_pods() {
    let (_topology, node) = node();
    let config = with(&node.config(), "subnet", json!("10.244.1.16/28"));
    let add = |name: &str| node.cni_with("ADD", &config, &node.sandbox(name));
    for n in 0..13 {
        let result = add(&format!("default/web-{n}")).ok();
        assert_eq!(result["ips"][0]["address"], format!("10.244.1.{}/32", 18 + n));
    }
    add("default/web-13")
        .error(code::RANGE_EXHAUSTED, &["default/web-13", "all 13", "10.244.1.16/28"]);
    assert_eq!(pod_devices_and_routes(&node).0.len(), 13);
}

#[test]
fn pods_of_one_node_are_limited_by_the_map_and_a_failed_add_is_undone() {
    let (_topology, node) = node();
    assert_eq!(dataplane::capacity(&node, map::LOCAL_PODS), PODS_PER_NODE);
    node.namespaces.run(|| {
        let pods = dataplane::open::<Addr, LocalPod>(map::LOCAL_PODS);
        let address = |n: u32| Addr::v4((0x0a80_0000 + n).to_be_bytes());
        let keys: Vec<Addr> = (0..PODS_PER_NODE).map(address).collect();
        pods.update_batch(&keys, &vec![LocalPod::default(); keys.len()]).unwrap();
    });
    let sandbox = node.sandbox("default/web");
    node.cni("ADD", &sandbox).error(code::IO_FAILURE, &["default/web", map::LOCAL_PODS]);
    assert_eq!(pod_devices_and_routes(&node), (vec![], 0));
    assert_eq!(crate::leases(&node), []);
    assert_eq!(devices(&sandbox.namespaces), ["lo"]);

    node.namespaces.run(|| {
        let pods = dataplane::open::<Addr, LocalPod>(map::LOCAL_PODS);
        let keys: Vec<Addr> = pods.entries().unwrap().into_iter().map(|(key, _)| key).collect();
        pods.delete_batch(&keys).unwrap();
    });
    node.cni("ADD", &sandbox).ok();
    node.cni("DEL", &sandbox).ok();
    assert_no_pod(&node);
}

/// Fills the table of flows, up to the capacity that it has in the product.
fn fill_flows() {
    let flows = dataplane::open::<FlowKey, FlowEntry>(map::FLOWS);
    let keys: Vec<FlowKey> = (0..map::FLOWS_MAX)
        .map(|n| {
            let [_, a, b, c] = n.to_be_bytes();
            let (src, dst) = (Addr::v4([10, a, b, c]), Addr::v4([198, 51, 100, 7]));
            let (sport, dport) = (PortBe::new(40_000), PortBe::new(80));
            FlowKey { src, dst, sport, dport, proto: proto::TCP, ..FlowKey::default() }
        })
        .collect();
    let entries: Vec<FlowEntry> = keys
        .iter()
        .map(|tuple| FlowEntry { tuple: *tuple, other: *tuple, ..FlowEntry::default() })
        .collect();
    flows.update_batch(&keys, &entries).unwrap();
}

/// A call that read the table would take longer the fuller it is. The calls are counted, not timed.
#[test]
fn full_table_of_flows_adds_no_call_to_add_and_del() {
    let topology = Topology::new();
    let node = topology.node(1);
    dataplane::load_all(&node, None);
    let calls = || {
        let sandbox = node.sandbox("default/web");
        ["ADD", "DEL"].map(|verb| {
            let call = CniCall::for_sandbox(verb, &node.config(), &sandbox);
            call.bpf_commands(&node.namespaces)
        })
    };
    let empty = calls();
    node.namespaces.run(fill_flows);
    let full = calls();
    assert_eq!(full, empty);
    for commands in &full {
        assert!(!commands.is_empty(), "no call is seen");
        assert!(ITERATIONS.iter().all(|command| !commands.contains_key(command)), "{commands:?}");
    }
    let flows = dataplane::entries::<FlowKey, FlowEntry>(&node, map::FLOWS);
    assert_eq!(flows.len(), map::FLOWS_MAX as usize, "the table was full");
}
