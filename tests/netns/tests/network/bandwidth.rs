//! The bandwidth plugin in the list that an agent writes.

use std::fs;
use std::time::{Duration, Instant};

use netns_tests::{CniCall, Pod, Topology, plugin};
use serde_json::{Value, json};

const LIST: &str = "/run/cni/net.d/05-sluice.conflist";
/// Bits per second: 1 MB a second.
const RATE: u32 = 8_000_000;
/// Bits.
const BURST: u32 = 800_000;
const BYTES: usize = 2 << 20;

/// Packets from the node's stack to the pod are those that the plugin limits on each kernel.
#[test]
fn chained_bandwidth_plugin_limits_what_the_node_sends_to_a_pod() {
    let topology = Topology::new();
    let node = topology.node(1);
    let _agent = node.agent_with(&["--chain=bandwidth"]);
    let list = node.namespaces.run(|| fs::read(LIST).unwrap());
    let list: Value = serde_json::from_slice(&list).unwrap();
    let bandwidth = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
    assert_eq!(list["plugins"][1], bandwidth);
    assert_eq!(list["plugins"].as_array().unwrap().len(), 2);

    // As a runtime does for a pod with the annotation kubernetes.io/ingress-bandwidth.
    let rates = json!({"bandwidth": {"ingressRate": RATE, "ingressBurst": BURST}});
    let sandbox = node.sandbox("default/limited");
    let mut first = node.config();
    first["runtimeConfig"] = rates.clone();
    let result = node.cni_with("ADD", &first, &sandbox).ok();
    let mut second = bandwidth;
    for (field, value) in [
        ("cniVersion", &list["cniVersion"]),
        ("name", &list["name"]),
        ("runtimeConfig", &rates),
        ("prevResult", &result),
    ] {
        second[field] = value.clone();
    }
    let call = |verb: &str| {
        let call = CniCall::for_sandbox(verb, &second, &sandbox);
        call.with_binary(&plugin("bandwidth")).run(&node.namespaces)
    };
    call("ADD").ok();

    let (limited, free) = (node.pod_of(&sandbox, result), node.pod("default/free"));
    let time_to = |pod: &Pod| {
        let _server = pod.serve("server", &["tcp:80"]);
        let start = Instant::now();
        assert_eq!(node.upload(&pod.at(80), BYTES), Ok(BYTES));
        start.elapsed()
    };
    let (limited, free) = (time_to(&limited), time_to(&free));
    assert!(limited > Duration::from_secs(1) && free < limited / 2, "{limited:?}, {free:?}");
    call("DEL").ok();
    node.cni_with("DEL", &first, &sandbox).ok();
}
