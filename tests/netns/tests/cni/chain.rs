//! Sluice at the head of a chain: the plugins after it get its result and work with it.

use netns_tests::{Call, Node, Sandbox, plugin};
use serde_json::{Value, json};

use crate::{node, nothing_is_left, with};

fn next(node: &Node, verb: &str, config: &Value, sandbox: &Sandbox) -> Value {
    let binary = plugin(config["type"].as_str().unwrap());
    let call = Call::for_sandbox(verb, config, sandbox).with_binary(&binary);
    call.run(&node.spaces).ok()
}

#[test]
fn portmap_and_bandwidth_work_after_it() {
    let (_world, node) = node();
    let head = |field: &str, value| {
        with(&with(&node.config(), "cniVersion", json!("1.0.0")), field, value)
    };
    let pods = [
        (
            "default/web",
            json!({
                "cniVersion": "1.0.0", "name": "sluice", "type": "portmap",
                "capabilities": {"portMappings": true},
                "runtimeConfig": {
                    "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
                },
            }),
        ),
        (
            "default/slow",
            json!({
                "cniVersion": "1.0.0", "name": "sluice", "type": "bandwidth",
                "ingressRate": 1_000_000, "ingressBurst": 1_000_000,
            }),
        ),
    ];
    for (name, config) in pods {
        let sandbox = node.sandbox(name);
        let ours = Call::for_sandbox("ADD", &head("mtu", json!(1400)), &sandbox);
        let first = ours.run(&node.spaces).ok();
        let last = next(&node, "ADD", &with(&config, "prevResult", first.clone()), &sandbox);
        assert_eq!(last["ips"], first["ips"], "the chain's result names our address");

        let check = head("prevResult", last.clone());
        Call::for_sandbox("CHECK", &check, &sandbox).run(&node.spaces).ok();
        next(&node, "DEL", &with(&config, "prevResult", last.clone()), &sandbox);
        // A runtime hands the result of ADD to DEL too.
        Call::for_sandbox("DEL", &head("prevResult", last), &sandbox).run(&node.spaces).ok();
    }
    nothing_is_left(&node);
}
