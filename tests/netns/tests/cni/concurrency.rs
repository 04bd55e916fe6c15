//! Many calls at once, as when a node starts.

use std::collections::BTreeSet;

use netns_tests::{CniCall, ip_json};

use crate::{assert_no_pod, node};

const PODS: usize = 120;

#[test]
fn concurrent_adds_get_distinct_addresses_and_interfaces() {
    let (_topology, node) = node();
    let config = node.config();
    let pods: Vec<_> = (0..PODS).map(|n| node.sandbox(&format!("default/web-{n}"))).collect();
    let spawn_all = |verb| -> Vec<_> {
        let call = |pod| CniCall::for_sandbox(verb, &config, pod).spawn(&node.namespaces);
        pods.iter().map(call).collect()
    };
    let (mut addresses, mut host_devices) = (BTreeSet::new(), BTreeSet::new());
    for (pod, call) in pods.iter().zip(spawn_all("ADD")) {
        let result = call.wait().ok();
        let address = result["ips"][0]["address"].as_str().unwrap().to_owned();
        let inside = &ip_json(&pod.namespaces, "addr show dev eth0")[0]["addr_info"][0];
        assert_eq!(format!("{}/32", inside["local"].as_str().unwrap()), address, "{}", pod.name);
        let host = result["interfaces"][0]["name"].as_str().unwrap();
        let alias = ip_json(&node.namespaces, &format!("link show dev {host}"));
        let alias = alias[0]["ifalias"].as_str().unwrap().to_owned();
        assert!(alias.starts_with(&format!("{} ", pod.name)), "{alias}");
        addresses.insert(address);
        host_devices.insert(host.to_owned());
    }
    assert_eq!((addresses.len(), host_devices.len()), (PODS, PODS));
    for call in spawn_all("DEL") {
        call.wait().ok();
    }
    assert_no_pod(&node);
}
