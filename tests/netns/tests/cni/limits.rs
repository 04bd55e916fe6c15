//! Limits of the specification that the CNI binary shows.

use netns_tests::cni::code;
use netns_tests::dataplane;
use serde_json::json;
use sluice_abi::{Addr, LocalPod, map};

use crate::{assert_no_pod, devices, node, pod_devices_and_routes, with};

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
