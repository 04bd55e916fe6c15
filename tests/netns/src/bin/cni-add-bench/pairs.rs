//! ADD and DEL of one pod after another, alternating with ptp and host-local in every round.

use std::path::Path;

use netns_tests::{CniCall, Node, Topology, dataplane, plugin};
use serde_json::{Value, json};

use crate::{milliseconds, percentile, with_plugin};

pub const ROUNDS: usize = 100;

/// Durations of ADD and of DEL in milliseconds.
type Took = (f64, f64);

pub fn run(rounds: usize) -> Value {
    let ptp = plugin("ptp");
    let topology = Topology::new();
    let node = topology.node(1);
    dataplane::load(&node);
    // Both keep their state on the same disk.
    let state = topology.folder("state");
    let ours = json!({
        "cniVersion": "1.0.0", "name": "sluice", "type": "sluice",
        "subnet": "10.244.1.0/24", "stateDir": state.join("sluice"),
    });
    // The default is a tmpfs.
    let mut in_memory = ours.clone();
    in_memory["stateDir"] = json!("/run/sluice/bench");
    let theirs = json!({
        "cniVersion": "1.0.0", "name": "ptp", "type": "ptp", "ipMasq": false,
        "ipam": {
            "type": "host-local", "dataDir": state.join("host-local"),
            "ranges": [[{"subnet": "10.244.2.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    let (mut a, mut b, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let times = (
            once(&node, &ours, None),
            once(&node, &theirs, Some(ptp.as_path())),
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
    let median = |times| percentile(times, 0.5);
    json!({
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
    })
}

fn once(node: &Node, config: &Value, binary: Option<&Path>) -> Took {
    let sandbox = node.sandbox("default/bench");
    let call = |verb| {
        let call = CniCall::for_sandbox(verb, config, &sandbox);
        let call = match binary {
            Some(path) => with_plugin(call, path),
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
