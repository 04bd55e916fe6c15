//! Times ADD and DEL of the CNI binary against ptp with host-local, alternating in every round, in
//! namespaces of its own. Prints one JSON object.
//!
//! `cni-add-bench [ROUNDS]`, as root, after `cargo xtask build`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench ends where it fails")]

use std::path::Path;
use std::time::Duration;

use netns_tests::{CniCall, Node, Topology, dataplane};
use serde_json::{Value, json};

const ROUNDS: usize = 100;
const PTP: &str = "/usr/lib/cni/ptp";

/// Durations of ADD and of DEL in milliseconds.
type Took = (f64, f64);

fn main() {
    let rounds = std::env::args().nth(1).map_or(ROUNDS, |n| n.parse().expect("[ROUNDS]"));
    assert!(Path::new(PTP).exists(), "{PTP}: install the package containernetworking-plugins");
    let topology = Topology::new();
    let node = topology.node(1);
    dataplane::load(&node);
    // Both keep their state on the same disk.
    let state = tempfile::tempdir().unwrap();
    let ours = json!({
        "cniVersion": "1.0.0", "name": "sluice", "type": "sluice",
        "subnet": "10.244.1.0/24", "stateDir": state.path().join("sluice"),
    });
    // The default is a tmpfs.
    let mut in_memory = ours.clone();
    in_memory["stateDir"] = json!("/run/sluice/bench");
    let theirs = json!({
        "cniVersion": "1.0.0", "name": "ptp", "type": "ptp", "ipMasq": false,
        "ipam": {
            "type": "host-local", "dataDir": state.path().join("host-local"),
            "ranges": [[{"subnet": "10.244.2.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    let (mut a, mut b, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let times = (
            once(&node, &ours, None),
            once(&node, &theirs, Some(Path::new(PTP))),
            once(&node, &in_memory, None),
        );
        // The first round fills the page cache.
        if round > 0 {
            a.push(times.0);
            b.push(times.1);
            memory.push(times.2);
        }
    }
    let add = |times: &[Took]| times.iter().map(|t| t.0).collect::<Vec<_>>();
    let del = |times: &[Took]| times.iter().map(|t| t.1).collect::<Vec<_>>();
    let report = json!({
        "rounds": rounds,
        "ours_ms": add(&a),
        "ptp_ms": add(&b),
        "ours_median_ms": median(add(&a)),
        "ptp_median_ms": median(add(&b)),
        "median_ratio": median(add(&a)) / median(add(&b)),
        "ours_in_memory_ms": add(&memory),
        "ours_in_memory_median_ms": median(add(&memory)),
        "ours_del_ms": del(&a),
        "ptp_del_ms": del(&b),
        "del_median_ratio": median(del(&a)) / median(del(&b)),
    });
    println!("{report}");
}

fn once(node: &Node, config: &Value, binary: Option<&Path>) -> Took {
    let sandbox = node.sandbox("default/bench");
    let call = |verb| {
        let call = CniCall::for_sandbox(verb, config, &sandbox);
        let call = match binary {
            Some(path) => call.with_binary(path).set("CNI_PATH", "/usr/lib/cni"),
            None => call,
        };
        let output = call.run(&node.namespaces);
        output.ok();
        milliseconds(output.took)
    };
    let took = (call("ADD"), call("DEL"));
    node.drop_sandbox(&sandbox.path);
    took
}

fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
