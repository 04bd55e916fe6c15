//! Many ADDs at once, as when a node starts.

use std::collections::BTreeSet;

use netns_tests::{Call, ip_json};
use serde_json::Value;

use crate::{node, nothing_is_left};

const PODS: usize = 120;

#[test]
fn a_hundred_pods_at_once_get_their_own_addresses_and_interfaces() {
    let (_world, node) = node();
    let config = node.config();
    let pods: Vec<_> = (0..PODS).map(|n| node.sandbox(&format!("default/web-{n}"))).collect();
    let calls: Vec<_> =
        pods.iter().map(|p| Call::for_sandbox("ADD", &config, p).spawn(&node.spaces)).collect();
    let mut addresses = BTreeSet::new();
    for (pod, call) in pods.iter().zip(calls) {
        let output = call.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        let result: Value = serde_json::from_str(&text).unwrap();
        let address = result["ips"][0]["address"].as_str().unwrap().to_owned();
        let inside = &ip_json(&pod.spaces, "addr show dev eth0")[0]["addr_info"][0];
        assert_eq!(format!("{}/32", inside["local"].as_str().unwrap()), address, "{}", pod.name);
        let host = result["interfaces"][0]["name"].as_str().unwrap();
        let alias = ip_json(&node.spaces, &format!("link show dev {host}"));
        let alias = alias[0]["ifalias"].as_str().unwrap().to_owned();
        assert!(alias.starts_with(&format!("{} ", pod.name)), "{alias}");
        addresses.insert(address);
    }
    assert_eq!(addresses.len(), PODS);
    let calls: Vec<_> =
        pods.iter().map(|p| Call::for_sandbox("DEL", &config, p).spawn(&node.spaces)).collect();
    for mut call in calls {
        assert!(call.wait().unwrap().success());
    }
    nothing_is_left(&node);
}
