//! The CNI binary against the kernel, without an agent, called as containerd calls it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod chain;
mod concurrency;
mod crash;
mod dead_leases;
mod del;
mod errors;
mod gc_status;
mod interface;
mod ipv6;
mod leases;
mod limits;
mod race;
mod row_lock;
mod versions;

use std::fs;

use netns_tests::{Namespaces, Node, Topology, dataplane, ip_json};
use serde_json::{Value, json};
use sluice_abi::{Backend, HostPortKey, LocalPod, PodNetns, map};
use sluice_pod::lease::{Lease, Store};

/// The folder of the leases.
const LEASES: &str = "/run/sluice/cni/leases";

/// A node whose programs and maps are loaded.
fn node() -> (Topology, Node) {
    let topology = Topology::new();
    let node = topology.node(1);
    dataplane::load(&node);
    (topology, node)
}

/// The configuration with one field changed; null removes it.
fn with(config: &Value, field: &str, value: Value) -> Value {
    let mut config = config.clone();
    config[field] = value;
    if config[field].is_null() {
        config.as_object_mut().unwrap().remove(field);
    }
    config
}

/// The configuration with a range of five addresses.
fn small_range(node: &Node) -> Value {
    with(&node.config(), "subnet", json!("10.244.1.0/29"))
}

/// Names of the devices of a namespace.
fn devices(namespaces: &Namespaces) -> Vec<String> {
    let links = ip_json(namespaces, "link show");
    links.iter().map(|l| l["ifname"].as_str().unwrap().to_owned()).collect()
}

/// Devices of pods on the node, and the number of routes to pods.
fn pod_devices_and_routes(node: &Node) -> (Vec<String>, usize) {
    let mut devices = devices(&node.namespaces);
    devices.retain(|name| name.starts_with("slc"));
    let routes = ip_json(&node.namespaces, "route show table all proto 83");
    (devices, routes.len())
}

/// The leases, parsed.
fn read_leases(node: &Node) -> Vec<Lease> {
    node.namespaces.run(|| Store::new("/run/sluice/cni").read().unwrap().leases)
}

/// Container ids and addresses of the leases.
fn leases(node: &Node) -> Vec<(String, String)> {
    let of = |lease: Lease| (lease.key.container_id, lease.address.to_string());
    read_leases(node).into_iter().map(of).collect()
}

/// Replaces the content of every lease.
fn damage_leases(node: &Node, content: &str) {
    node.namespaces.run(|| {
        for file in fs::read_dir(LEASES).unwrap() {
            fs::write(file.unwrap().path(), content).unwrap();
        }
    });
}

/// The rows of `PODS` that belong to a pod, with their indices.
fn pods_by_index(node: &Node) -> Vec<(u32, LocalPod)> {
    let mut rows = dataplane::entries::<u32, LocalPod>(node, map::PODS);
    rows.retain(|(_, row)| *row != LocalPod::default());
    rows
}

/// The rows of `HOST_PORTS`.
fn host_ports(node: &Node) -> Vec<(HostPortKey, Backend)> {
    dataplane::entries(node, map::HOST_PORTS)
}

/// Asserts that the node has no device, route, lease or map entry of a pod.
#[track_caller]
fn assert_no_pod(node: &Node) {
    assert_eq!(pod_devices_and_routes(node), (vec![], 0));
    assert_eq!(leases(node), []);
    assert_eq!(dataplane::local_pods(node), 0);
    assert_eq!(pods_by_index(node), []);
    assert_eq!(dataplane::entries::<u64, PodNetns>(node, map::POD_NETNS), []);
    assert_eq!(host_ports(node), []);
}
