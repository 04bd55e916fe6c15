//! Leases that the agent releases.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use netns_tests::manifest::namespace;
use netns_tests::{
    CniCall, Node, Pod, Sandbox, Topology, dataplane, eventually_equals, ip, ip_json,
};
use nix::mount::{MsFlags, mount};
use serde_json::json;
use sluice_abi::{Addr, Backend, HostPortKey, LocalPod, PodNetns, map};
use sluice_pod::lease::{BootInstant, Store};

/// Longer than any ADD runs.
const OLD: u64 = 200;

fn containers(node: &Node) -> BTreeSet<String> {
    let leases = node.namespaces.run(|| Store::new("/run/sluice/cni").read().unwrap().leases);
    leases.into_iter().map(|lease| lease.key.container_id).collect()
}

/// Lets the node's processes read a time since the boot that is later and stands still.
fn advance_clock(node: &Node, seconds: u64) {
    let uptime = BootInstant::now().unwrap().seconds + seconds;
    node.namespaces.run(|| {
        let (file, none) = (Some("/run/uptime"), None::<&str>);
        fs::write("/run/uptime", format!("{uptime}.00 0.00\n")).unwrap();
        mount(file, "/proc/uptime", none, MsFlags::MS_BIND, none).unwrap();
    });
}

/// Deletes both ends of a pod's veth pair.
fn delete_device(node: &Node, pod: &Pod) {
    ip(&node.namespaces, &format!("link del {}", pod.host_device()));
}

/// A pod whose network namespace is where the agent sees none.
fn pod_elsewhere(node: &Node, name: &str) -> Pod {
    let path = PathBuf::from("/run/docker/netns/default");
    node.namespaces.run(|| fs::create_dir_all(path.parent().unwrap()).unwrap());
    let sandbox =
        Sandbox { namespaces: node.namespaces.sandbox(&path), path, ..node.sandbox(name) };
    let result = node.cni("ADD", &sandbox).ok();
    node.pod_of(&sandbox, result)
}

/// A pod that deletes its interface still uses the address.
#[test]
fn agent_releases_the_lease_of_a_removed_sandbox_and_not_that_of_a_pod_without_a_device() {
    let topology = Topology::new();
    topology.apply("ns", &namespace("default", &[]));
    let node = topology.node(1);
    let agent = node.agent();
    let without_device = node.pod("default/without-device");
    let elsewhere = pod_elsewhere(&node, "default/elsewhere");
    let removed = node.pod("default/removed");
    let id = |pod: &Pod| pod.sandbox.id.clone();
    let all = [&without_device, &elsewhere, &removed].map(id);
    assert_eq!(containers(&node), BTreeSet::from(all));
    agent.kill();
    ip(&without_device.sandbox.namespaces, "link del eth0");
    for pod in [&elsewhere, &removed] {
        delete_device(&node, pod);
        // Of the first, the namespace still exists: the mounts of the agent's container lack the path.
        node.drop_sandbox(&pod.sandbox.path);
    }
    advance_clock(&node, OLD);
    // The first reconciliation judges all.
    let _agent = node.agent();
    let kept = BTreeSet::from([&without_device, &elsewhere].map(id));
    eventually_equals("leases", kept, || containers(&node));
}

/// Its address would lead to another pod.
#[test]
fn agent_keeps_a_lease_whose_rows_cannot_be_removed() {
    let topology = Topology::new();
    topology.apply("ns", &namespace("default", &[]));
    let node = topology.node(1);
    let agent = node.agent();
    let mapping = json!([{"hostPort": 9080, "containerPort": 8080}]);
    let with_row = node.pod_with_host_ports("default/with-row", mapping);
    let other = node.pod("default/other");
    agent.kill();
    for pod in [&with_row, &other] {
        delete_device(&node, pod);
        node.drop_sandbox(&pod.sandbox.path);
    }
    dataplane::freeze(&node, map::HOST_PORTS);
    advance_clock(&node, OLD);
    // It can be ready only with the row.
    let _agent = node.agent_not_ready(&[]);
    let kept = BTreeSet::from([with_row.sandbox.id.clone()]);
    eventually_equals("leases", kept.clone(), || containers(&node));
    let status = || node.try_sluice(&["status"]).1.contains("10.244.1.2 not released");
    eventually_equals("condition", true, status);
    assert_eq!(containers(&node), kept);
}

/// What DEL removes otherwise; the runtime has lost its sandboxes.
#[test]
fn agent_removes_what_adds_left_that_were_killed_at_any_step() {
    let topology = Topology::new();
    topology.apply("ns", &namespace("default", &[]));
    let node = topology.node(1);
    node.agent().kill();
    let mut config = node.config();
    config["runtimeConfig"]["portMappings"] = json!([{"hostPort": 9080, "containerPort": 8080}]);
    for step in 0.. {
        let sandbox = node.sandbox("default/web");
        let add = CniCall::for_sandbox("ADD", &config, &sandbox);
        let killed = add.kill_before(&node.namespaces, step);
        node.drop_sandbox(&sandbox.path);
        if !killed {
            assert!(step >= 20, "{step} steps");
            break;
        }
    }
    assert!(!containers(&node).is_empty());
    // A lease is kept while its device exists, and the kernel removes those of the last sandboxes later.
    let devices = || {
        let links = ip_json(&node.namespaces, "link show");
        links.iter().filter(|link| link["ifname"].as_str().unwrap().starts_with("slc")).count()
    };
    eventually_equals("devices", 0, devices);
    advance_clock(&node, OLD);
    let _agent = node.agent();
    eventually_equals("leases", BTreeSet::new(), || containers(&node));
    let rows = || {
        let by_index = dataplane::entries::<u32, LocalPod>(&node, map::PODS);
        (
            dataplane::entries::<HostPortKey, Backend>(&node, map::HOST_PORTS).len(),
            dataplane::entries::<Addr, LocalPod>(&node, map::LOCAL_PODS).len(),
            dataplane::entries::<u64, PodNetns>(&node, map::POD_NETNS).len(),
            by_index.iter().filter(|(_, row)| *row != LocalPod::default()).count(),
        )
    };
    eventually_equals("rows", (0, 0, 0, 0), rows);
}
