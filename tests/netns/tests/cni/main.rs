//! The CNI binary against the kernel, without an agent: called as containerd calls it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod chain;
mod collect;
mod crash;
mod leases;
mod many;
mod refusals;
mod undone;
mod versions;
mod wiring;

use std::fs;
use std::path::Path;

use netns_tests::{Namespaces, Node, World, dataplane, ip_json};
use serde_json::{Value, json};

/// A node on which the dataplane is loaded, as an agent leaves it behind.
fn node() -> (World, Node) {
    let world = World::new();
    let node = world.node(1);
    dataplane::load(&node);
    (world, node)
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

/// A range with room for five pods.
fn small(node: &Node) -> Value {
    with(&node.config(), "subnet", json!("10.244.1.0/29"))
}

/// Names of the devices of a namespace.
fn devices(place: &Namespaces) -> Vec<String> {
    let links = ip_json(place, "link show");
    links.iter().map(|l| l["ifname"].as_str().unwrap().to_owned()).collect()
}

/// What is on the node that belongs to pods: devices, and routes to them.
fn traces(node: &Node) -> (Vec<String>, usize) {
    let mut devices = devices(&node.spaces);
    devices.retain(|name| name.starts_with("slc"));
    let routes = ip_json(&node.spaces, "route show table all proto 83");
    (devices, routes.len())
}

/// Container ids that have a lease, with their addresses.
fn leases(node: &Node) -> Vec<(String, String)> {
    let text = node.spaces.run(|| fs::read(Path::new("/var/lib/sluice/cni/leases.json")));
    let Ok(text) = text else { return Vec::new() };
    let state: Value = serde_json::from_slice(&text).unwrap();
    let field = |lease: &Value, name: &str| lease[name].as_str().unwrap().to_owned();
    let leases = state["leases"].as_array().unwrap();
    leases.iter().map(|l| (field(l, "containerId"), field(l, "address"))).collect()
}

/// Asserts that nothing of any pod is left on the node.
#[track_caller]
fn nothing_is_left(node: &Node) {
    assert_eq!(traces(node), (vec![], 0));
    assert_eq!(leases(node), []);
    assert_eq!(dataplane::endpoints(node), 0);
}
