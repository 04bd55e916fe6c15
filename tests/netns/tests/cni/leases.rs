//! Addresses: none twice, none too soon, and what happens when the state is hurt.

use std::collections::BTreeSet;
use std::fs;

use netns_tests::{Call, eventually};
use serde_json::{Value, json};

use crate::{node, nothing_is_left, small, with};

const STATE: &str = "/var/lib/sluice/cni/leases.json";

#[test]
fn exhaustion_names_count_and_range_and_ends() {
    let (_world, node) = node();
    let config = small(&node);
    let add = |sandbox: &_| Call::for_sandbox("ADD", &config, sandbox).run(&node.spaces);
    let pods: Vec<_> = (0..5).map(|n| node.sandbox(&format!("default/web-{n}"))).collect();
    let addresses: BTreeSet<String> = pods
        .iter()
        .map(|pod| add(pod).ok()["ips"][0]["address"].as_str().unwrap().to_owned())
        .collect();
    let want: BTreeSet<String> = (2..=6).map(|n| format!("10.244.1.{n}/32")).collect();
    assert_eq!(addresses, want, "network, gateway and broadcast are nobody's");

    let late = node.sandbox("default/late");
    add(&late).error(101, &["default/late", "all 5", "10.244.1.0/29"]);
    Call::new("STATUS", &config).run(&node.spaces).error(50, &["10.244.1.0/29"]);
    assert_eq!(crate::devices(&late.spaces), ["lo"]);

    // A freed address rests, then serves.
    Call::for_sandbox("DEL", &config, &pods[3]).run(&node.spaces).ok();
    add(&late).error(11, &["default/late", "less than 10 s ago"]);
    let result = eventually("the address has rested", || {
        let outcome = add(&late);
        if outcome.code == Some(0) { Ok(outcome.ok()) } else { Err(outcome.stdout) }
    });
    assert_eq!(result["ips"][0]["address"], "10.244.1.5/32");
}

#[test]
fn an_address_comes_back_as_late_as_the_range_allows() {
    let (_world, node) = node();
    let mut addresses = Vec::new();
    for _ in 0..40 {
        let pod = node.pod("default/job");
        addresses.push(pod.address);
        node.cni("DEL", &pod.sandbox).ok();
        node.drop_sandbox(&pod.sandbox.path);
    }
    let different: BTreeSet<_> = addresses.iter().collect();
    assert_eq!(different.len(), addresses.len(), "{addresses:?}");
    nothing_is_left(&node);
}

#[test]
fn leases_of_vanished_sandboxes_are_reclaimed_when_the_range_is_full() {
    let (_world, node) = node();
    let config = small(&node);
    let add = |sandbox: &_| Call::for_sandbox("ADD", &config, sandbox).run(&node.spaces);
    for n in 0..5 {
        let sandbox = node.sandbox(&format!("default/web-{n}"));
        add(&sandbox).ok();
        // The runtime crashed, or the machine: no DEL ever comes.
        if n < 4 {
            node.drop_sandbox(&sandbox.path);
        }
    }
    // The kernel takes the interfaces of a namespace away in its own time, and a list that is read
    // meanwhile may lack some that are still there: two lists have to agree.
    eventually("their interfaces are gone", || {
        match (crate::traces(&node).0, crate::traces(&node).0) {
            (one, two) if one.len() == 1 && two == one => Ok(()),
            left => Err(format!("{left:?}")),
        }
    });
    // A young lease may belong to an ADD that is still at work: make these as old as a reboot.
    node.spaces.run(|| {
        let mut state: Value = serde_json::from_slice(&fs::read(STATE).unwrap()).unwrap();
        for lease in state["leases"].as_array_mut().unwrap() {
            lease["since"]["bootId"] = json!("00000000-0000-0000-0000-000000000000");
        }
        fs::write(STATE, state.to_string()).unwrap();
    });
    let late = node.sandbox("default/late");
    eventually("a leftover's address is free", || {
        let outcome = add(&late);
        if outcome.code == Some(0) { Ok(()) } else { Err(outcome.stdout) }
    });
    assert_eq!(crate::leases(&node).len(), 2);
}

#[test]
fn a_damaged_state_is_kept_aside_and_rebuilt_from_the_interfaces() {
    let (_world, node) = node();
    let pods: Vec<_> = (0..3).map(|n| node.pod(&format!("default/web-{n}"))).collect();
    let before: BTreeSet<_> = crate::leases(&node).into_iter().collect();
    for (number, damage) in ["", "{\"leases\":[{", "[1]"].iter().enumerate() {
        node.spaces.run(|| fs::write(STATE, damage).unwrap());
        let outcome = node.cni("ADD", &node.sandbox("default/new"));
        let result = outcome.ok();
        let address = result["ips"][0]["address"].as_str().unwrap();
        assert!(pods.iter().all(|p| !address.starts_with(&format!("{}/", p.address))), "{address}");
        let kept = format!("{STATE}.corrupt-{number}");
        assert_eq!(node.spaces.run(|| fs::read_to_string(&kept).unwrap()), *damage);
        assert!(outcome.stderr.contains("corrupt"), "it is reported: {:?}", outcome.stderr);
        let after: BTreeSet<_> = crate::leases(&node).into_iter().collect();
        assert!(before.is_subset(&after), "{before:?} {after:?}");
    }
    for pod in &pods {
        node.cni("DEL", &pod.sandbox).ok();
    }
}

#[test]
fn a_lost_state_is_rebuilt_too() {
    let (_world, node) = node();
    let pod = node.pod("default/web");
    let before = crate::leases(&node);
    node.spaces.run(|| fs::remove_dir_all("/var/lib/sluice").unwrap());
    let next = node.pod("default/next");
    assert_ne!(next.address, pod.address);
    assert!(crate::leases(&node).contains(&before[0]));
}

#[test]
fn pods_of_an_earlier_range_stay_until_they_go() {
    let (_world, node) = node();
    let old = node.pod("default/old");
    let config = with(&node.config(), "subnet", json!("10.244.77.0/24"));
    let sandbox = node.sandbox("default/new");
    let result = Call::for_sandbox("ADD", &config, &sandbox).run(&node.spaces).ok();
    assert_eq!(result["ips"][0]["address"], "10.244.77.2/32");
    assert_eq!(crate::leases(&node).len(), 2);
    Call::for_sandbox("DEL", &config, &old.sandbox).run(&node.spaces).ok();
    Call::for_sandbox("DEL", &config, &sandbox).run(&node.spaces).ok();
    nothing_is_left(&node);
}
