//! Address leases: no address twice, none again too soon, and damaged state.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use netns_tests::cni::code;
use netns_tests::{CniCall, CniOutput, Node, Sandbox, command, eventually, eventually_equals};
use serde_json::{Value, json};
use sluice_pod::lease::Lease;

use crate::{
    LEASES, assert_no_pod, damage_leases, devices, leases, node, pod_devices_and_routes,
    read_leases, small_range, with,
};

/// The file with the released addresses.
const ALLOCATION: &str = "/run/sluice/cni/allocation.json";
/// The file of a former version.
const FORMER: &str = "/var/lib/sluice/cni/leases.json";

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
    node.cni_of_network("STATUS", &small_range(&node)).ok();
    assert_eq!(devices(&late.namespaces), ["lo"]);

    let released = Instant::now();
    let del = node.cni_with("DEL", &small_range(&node), &pods[3]);
    del.ok();
    add(&node, &late).error(code::TRY_AGAIN_LATER, &["default/late", "10 s"]);
    age_released(&node, 8);
    let result = eventually("the released address is reused", || {
        let output = add(&node, &late);
        if output.code == Some(0) { Ok(output.ok()) } else { Err(output.stdout) }
    });
    assert_eq!(result["ips"][0]["address"], "10.244.1.5/32");
    // Two of the ten seconds are left; the state has whole seconds, so at least one of them passes.
    assert!(released.elapsed() > Duration::from_secs(1), "{:?}", released.elapsed());
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
    node.cni_of_network("STATUS", &small_range(&node)).ok();
    assert_eq!(leases(&node).len(), 5);
}

#[test]
fn leases_of_removed_sandboxes_are_reclaimed_when_the_range_is_full() {
    let (_topology, node) = node();
    let last = keep_last_sandbox(&node, fill(&node));
    set_boot_id_of_leases(&node);
    node.cni_of_network("STATUS", &small_range(&node)).ok();
    let late = node.sandbox("default/late");
    // The leases are reclaimed; their addresses are released now.
    add(&node, &late).error(code::TRY_AGAIN_LATER, &["default/late"]);
    age_released(&node, 8);
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
        for file in fs::read_dir(LEASES).unwrap() {
            let path = file.unwrap().path();
            let mut lease: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            lease["since"]["bootId"] = json!("00000000-0000-0000-0000-000000000000");
            fs::write(path, lease.to_string()).unwrap();
        }
    });
}

/// Makes released addresses so many seconds older.
fn age_released(node: &Node, seconds: u64) {
    node.namespaces.run(|| {
        let mut allocation: Value = serde_json::from_slice(&fs::read(ALLOCATION).unwrap()).unwrap();
        let released = allocation["released"].as_array_mut().unwrap();
        assert!(!released.is_empty(), "no address was released");
        for address in released {
            address["at"] = json!(address["at"].as_u64().unwrap().saturating_sub(seconds));
        }
        fs::write(ALLOCATION, allocation.to_string()).unwrap();
    });
}

/// Damaged files keep their addresses; when the range is full, they are rebuilt from the devices.
#[test]
fn damaged_leases_keep_their_addresses_and_are_rebuilt_from_the_interfaces() {
    let (_topology, node) = node();
    let mut pods = fill(&node);
    let before = read_leases(&node);
    for damage in ["", "{\"address\":", "[1]"] {
        damage_leases(&node, damage);
        let late = node.sandbox("default/late");
        let output = add(&node, &late);
        output.error(code::RANGE_EXHAUSTED, &["default/late", "all 5"]);
        assert!(output.stderr.contains("corrupt"), "not reported: {:?}", output.stderr);
        // Paths of network namespaces are not known to the devices.
        let known = |mut leases: Vec<Lease>| {
            leases.iter_mut().for_each(|lease| lease.netns.clear());
            leases
                .into_iter()
                .map(|l| (l.address, l.index, l.generation, l.owner(), l.key))
                .collect::<Vec<_>>()
        };
        assert_eq!(known(read_leases(&node)), known(before.clone()));
    }
    // GC rebuilds them too, and detaches what is not valid.
    damage_leases(&node, "{");
    let kept = pods.pop().unwrap();
    let valid = json!([{ "containerID": kept.id, "ifname": "eth0" }]);
    let config = with(&small_range(&node), "cni.dev/valid-attachments", valid);
    CniCall::new("GC", &config).run(&node.namespaces).ok();
    assert_eq!(leases(&node).into_iter().map(|(id, _)| id).collect::<Vec<_>>(), [kept.id]);
}

#[test]
fn missing_state_is_rebuilt_from_the_interfaces() {
    let (_topology, node) = node();
    let pod = node.pod("default/web");
    let before = read_leases(&node);
    node.namespaces.run(|| fs::remove_dir_all("/run/sluice/cni").unwrap());
    let next = node.pod("default/next");
    assert_ne!(next.address, pod.address);
    let after = read_leases(&node);
    let same = |l: &&Lease| {
        (l.address, l.index, l.generation)
            == (before[0].address, before[0].index, before[0].generation)
    };
    assert_eq!(after.iter().filter(same).count(), 1, "{after:?}");
    assert_ne!(after[0].index, after[1].index);
}

/// The upgrade of a node whose pods a version with one lease file attached: its folder and its CNI
/// configuration are still there, and its devices have no numbers.
#[test]
fn leases_of_a_former_version_are_taken_over_with_their_pods() {
    let (_topology, node) = node();
    let old: Vec<_> = (0..3).map(|n| node.pod(&format!("default/old-{n}"))).collect();
    let before = read_leases(&node);
    node.namespaces.run(|| write_former(&before));
    for lease in &before {
        let alias = format!("{} eth0 {}", lease.owner(), lease.key.container_id);
        let args = ["link", "set", "dev", &lease.host_ifname, "alias", &alias];
        command(&node.namespaces, "ip", &args);
    }
    let config = with(&node.config(), "stateDir", json!("/var/lib/sluice/cni"));
    let call = |verb, config: &Value, sandbox| node.cni_with(verb, config, sandbox);
    let check = with(&config, "prevResult", old[0].result.clone());
    // Everything but the number is as the former version made it; the agent writes the row again.
    call("CHECK", &check, &old[0].sandbox).error(code::CHECK_FAILED, &["LOCAL_PODS row of"]);
    let sandbox = node.sandbox("default/new");
    call("ADD", &config, &sandbox).ok();
    let leases = read_leases(&node);
    let key = |l: &Lease| (l.address, l.key.clone(), l.owner(), l.netns.clone());
    let taken: BTreeSet<_> = leases.iter().map(key).collect();
    assert!(before.iter().map(key).all(|lease| taken.contains(&lease)), "{leases:?}");
    let indexes: BTreeSet<_> = leases.iter().map(|lease| lease.index).collect();
    assert_eq!(indexes, BTreeSet::from([0, 1, 2, 3]));
    assert!(leases.iter().all(|lease| lease.generation != 0));
    let left = node.namespaces.run(|| Path::new(FORMER).exists());
    assert!(!left, "{FORMER} would be taken over again");
    for pod in &old {
        call("DEL", &node.config(), &pod.sandbox).ok();
    }
    call("DEL", &node.config(), &sandbox).ok();
    assert_no_pod(&node);
}

/// Replaces the leases by the file of a former version.
fn write_former(leases: &[Lease]) {
    let leases: Vec<Value> = leases
        .iter()
        .map(|lease| {
            let mut lease = serde_json::to_value(lease).unwrap();
            lease
                .as_object_mut()
                .unwrap()
                .retain(|name, _| name != "index" && name != "generation");
            lease
        })
        .collect();
    let state = json!({
        "subnet": "10.244.1.0/24", "cursor": leases[0]["address"], "released": [],
        "leases": leases,
    });
    fs::remove_dir_all("/run/sluice/cni").unwrap();
    fs::create_dir_all("/var/lib/sluice/cni").unwrap();
    fs::write(FORMER, state.to_string()).unwrap();
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
