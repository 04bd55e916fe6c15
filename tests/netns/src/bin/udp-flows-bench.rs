//! New UDP flows from a pod to one host outside, through masquerade: how many requests are lost.
//! Prints one JSON object.
//!
//! `udp-flows-bench [RATE] [SECONDS]`, as root, after `cargo xtask build`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench ends where it fails")]

use netns_tests::{OUTSIDE, Topology};
use serde_json::json;

fn main() {
    let argument = |n: usize, default: u32| {
        std::env::args().nth(n).map_or(default, |text| text.parse().expect("[RATE] [SECONDS]"))
    };
    let (rate, seconds) = (argument(1, 1000), argument(2, 120));
    let topology = Topology::new();
    let node = topology.node(1);
    let _agent = node.agent();
    let pod = node.pod("default/client");
    let _resolver = topology.outside.serve("resolver", &["udp:53"]);
    let report = pod.resolve(&format!("{OUTSIDE}:53"), rate, seconds);
    let refused = node.sluice(&["counters", "-o", "json"]);
    let refused: serde_json::Value = serde_json::from_str(&refused).unwrap();
    println!("{}", json!({ "report": report, "counters": refused }));
}
