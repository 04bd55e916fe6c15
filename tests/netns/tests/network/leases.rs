//! Leases that the agent releases.

use std::collections::BTreeSet;
use std::fs;

use netns_tests::manifest::namespace;
use netns_tests::{Node, Topology, eventually_equals, ip};
use nix::mount::{MsFlags, mount};
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

/// A pod that deletes its interface still uses the address.
#[test]
fn agent_releases_the_lease_of_a_removed_sandbox_and_not_that_of_a_pod_without_a_device() {
    let topology = Topology::new();
    topology.apply("ns", &namespace("default", &[]));
    let node = topology.node(1);
    let agent = node.agent();
    let without_device = node.pod("default/without-device");
    let removed = node.pod("default/removed");
    let both = [&without_device, &removed].map(|pod| pod.sandbox.id.clone());
    assert_eq!(containers(&node), BTreeSet::from(both));
    agent.kill();
    ip(&without_device.sandbox.namespaces, "link del eth0");
    ip(&node.namespaces, &format!("link del {}", removed.host_device()));
    node.drop_sandbox(&removed.sandbox.path);
    advance_clock(&node, OLD);
    // The first reconciliation judges both.
    let _agent = node.agent();
    let kept = BTreeSet::from([without_device.sandbox.id.clone()]);
    eventually_equals("leases", kept, || containers(&node));
}
