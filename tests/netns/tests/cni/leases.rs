//! Address leases: no address twice, none again too soon, and damaged state.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use netns_tests::cni::code;
use netns_tests::{CniOutput, Node, Sandbox, eventually, eventually_equals};
use serde_json::{Value, json};

use crate::{
    STATE, assert_no_pod, devices, leases, node, pod_devices_and_routes, small_range, with,
};

fn add(node: &Node, sandbox: &Sandbox) -> CniOutput {
    node.cni_with("ADD", &small_range(node), sandbox)
}

/// Five pods fill the small range.
fn fill(node: &Node) -> Vec<Sandbox> {
    let pods: Vec<_> = (0..5).map(|n| node.sandbox(&format!("default/web-{n}"))).collect();
    let addresses: BTreeSet<String> = pods
        .iter()
        .map(|pod| add(node, pod).ok()["ips"][0]["address"].as_str().unwrap().to_owned())
        .collect();
    let want: BTreeSet<String> = (2..=6).map(|n| format!("10.244.1.{n}/32")).collect();
    assert_eq!(addresses, want, "network, gateway and broadcast address are not assigned");
    pods
}

#[test]
fn add_in_a_full_range_fails_and_a_released_address_is_reused_after_ten_seconds() {
    let (_topology, node) = node();
    let pods = fill(&node);
    let late = node.sandbox("default/late");
    add(&node, &late).error(code::RANGE_EXHAUSTED, &["default/late", "all 5", "10.244.1.0/29"]);
    let status = node.cni_of_network("STATUS", &small_range(&node));
    status.error(code::PLUGIN_NOT_AVAILABLE, &["10.244.1.0/29"]);
    assert_eq!(devices(&late.namespaces), ["lo"]);

    let del = node.cni_with("DEL", &small_range(&node), &pods[3]);
    del.ok();
    let released = Instant::now();
    add(&node, &late).error(code::TRY_AGAIN_LATER, &["default/late", "10 s"]);
    let result = eventually("the released address is reused", || {
        let output = add(&node, &late);
        if output.code == Some(0) { Ok(output.ok()) } else { Err(output.stdout) }
    });
    assert_eq!(result["ips"][0]["address"], "10.244.1.5/32");
    // The clock of the state has whole seconds.
    assert!(released.elapsed() > Duration::from_secs(8), "{:?}", released.elapsed());
}

#[test]
fn address_is_reused_as_late_as_the_range_allows() {
    let (_topology, node) = node();
    let mut addresses = Vec::new();
    for _ in 0..40 {
        let pod = node.pod("default/job");
        addresses.push(pod.address);
        node.cni("DEL", &pod.sandbox).ok();
        node.drop_sandbox(&pod.sandbox.path);
    }
    let different: BTreeSet<_> = addresses.iter().collect();
    assert_eq!(different.len(), addresses.len(), "{addresses:?}");
    assert_no_pod(&node);
}

/// A lease without a device belongs to a running ADD for two minutes: reclaiming it would assign
/// one address twice.
#[test]
fn lease_of_a_running_add_is_not_reclaimed() {
    let (_topology, node) = node();
    keep_last_sandbox(&node, fill(&node));
    let late = node.sandbox("default/late");
    add(&node, &late).error(code::RANGE_EXHAUSTED, &["default/late", "all 5"]);
    let status = node.cni_of_network("STATUS", &small_range(&node));
    status.error(code::PLUGIN_NOT_AVAILABLE, &["10.244.1.0/29"]);
    assert_eq!(leases(&node).len(), 5);
}

#[test]
fn leases_of_removed_sandboxes_are_reclaimed_when_the_range_is_full() {
    let (_topology, node) = node();
    let last = keep_last_sandbox(&node, fill(&node));
    set_boot_id_of_leases(&node);
    node.cni_of_network("STATUS", &small_range(&node)).ok();
    let late = node.sandbox("default/late");
    eventually("an address of a removed sandbox is assigned", || {
        let output = add(&node, &late);
        if output.code == Some(0) { Ok(()) } else { Err(output.stdout) }
    });
    let kept: BTreeSet<String> = leases(&node).into_iter().map(|(id, _)| id).collect();
    assert_eq!(kept, BTreeSet::from([last.id, late.id]));
}

/// Removes all sandboxes but the last, without DEL as after a crash of the runtime, and waits
/// until the kernel has removed their devices.
fn keep_last_sandbox(node: &Node, mut pods: Vec<Sandbox>) -> Sandbox {
    let last = pods.pop().unwrap();
    for pod in pods {
        node.drop_sandbox(&pod.path);
    }
    // A list that is read during the removal may be incomplete: two lists have to agree.
    eventually_equals("devices of pods", (1, 1), || {
        let count = || pod_devices_and_routes(node).0.len();
        (count(), count())
    });
    last
}

/// Makes all leases as old as the last boot of the machine.
fn set_boot_id_of_leases(node: &Node) {
    node.namespaces.run(|| {
        let mut state: Value = serde_json::from_slice(&fs::read(STATE).unwrap()).unwrap();
        for lease in state["leases"].as_array_mut().unwrap() {
            lease["since"]["bootId"] = json!("00000000-0000-0000-0000-000000000000");
        }
        fs::write(STATE, state.to_string()).unwrap();
    });
}

#[test]
fn damaged_state_is_renamed_and_rebuilt_from_the_interfaces() {
    let (_topology, node) = node();
    let pods: Vec<_> = (0..3).map(|n| node.pod(&format!("default/web-{n}"))).collect();
    let before: BTreeSet<_> = leases(&node).into_iter().collect();
    for (number, damage) in ["", "{\"leases\":[{", "[1]"].iter().enumerate() {
        node.namespaces.run(|| fs::write(STATE, damage).unwrap());
        let output = node.cni("ADD", &node.sandbox("default/new"));
        let result = output.ok();
        let address = result["ips"][0]["address"].as_str().unwrap();
        assert!(pods.iter().all(|p| !address.starts_with(&format!("{}/", p.address))), "{address}");
        let kept = format!("{STATE}.corrupt-{number}");
        assert_eq!(node.namespaces.run(|| fs::read_to_string(&kept).unwrap()), *damage);
        assert!(output.stderr.contains("corrupt"), "not reported: {:?}", output.stderr);
        let after: BTreeSet<_> = leases(&node).into_iter().collect();
        assert!(before.is_subset(&after), "{before:?} {after:?}");
    }
    for pod in &pods {
        node.cni("DEL", &pod.sandbox).ok();
    }
}

#[test]
fn missing_state_is_rebuilt_from_the_interfaces() {
    let (_topology, node) = node();
    let pod = node.pod("default/web");
    let before = leases(&node);
    node.namespaces.run(|| fs::remove_dir_all("/var/lib/sluice").unwrap());
    let next = node.pod("default/next");
    assert_ne!(next.address, pod.address);
    assert!(leases(&node).contains(&before[0]));
}

#[test]
fn pods_of_an_earlier_range_keep_their_addresses() {
    let (_topology, node) = node();
    let old = node.pod("default/old");
    let config = with(&node.config(), "subnet", json!("10.244.77.0/24"));
    let sandbox = node.sandbox("default/new");
    let result = node.cni_with("ADD", &config, &sandbox).ok();
    assert_eq!(result["ips"][0]["address"], "10.244.77.2/32");
    assert_eq!(leases(&node).len(), 2);
    node.cni_with("DEL", &config, &old.sandbox).ok();
    node.cni_with("DEL", &config, &sandbox).ok();
    assert_no_pod(&node);
}
