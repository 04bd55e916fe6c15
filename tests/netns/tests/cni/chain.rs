//! Sluice at the head of a plugin chain: the plugins after it use its result.

use netns_tests::{CniCall, Node, Sandbox, dataplane, plugin};
use serde_json::{Value, json};

use crate::{assert_no_pod, node, with};

fn next_plugin(node: &Node, verb: &str, config: &Value, sandbox: &Sandbox) -> Value {
    let binary = plugin(config["type"].as_str().unwrap());
    let call = CniCall::for_sandbox(verb, config, sandbox).with_binary(&binary);
    call.run(&node.namespaces).ok()
}

#[test]
fn portmap_and_bandwidth_run_after_sluice() {
    let (_topology, node) = node();
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
        let add = CniCall::for_sandbox("ADD", &head("mtu", json!(1400)), &sandbox);
        let first = add.run(&node.namespaces).ok();
        let last = next_plugin(&node, "ADD", &with(&config, "prevResult", first.clone()), &sandbox);
        assert_eq!(last["ips"], first["ips"], "the result of the chain has the pod's address");

        let check = head("prevResult", last.clone());
        node.cni_with("CHECK", &check, &sandbox).ok();
        next_plugin(&node, "DEL", &with(&config, "prevResult", last.clone()), &sandbox);
        // A runtime passes the result of ADD to DEL too.
        let del = CniCall::for_sandbox("DEL", &head("prevResult", last), &sandbox);
        del.run(&node.namespaces).ok();
    }
    assert_no_pod(&node);
}

/// With `egressRate` the bandwidth plugin needs the ingress qdisc of the veth, which clsact has before Linux 6.6.
#[test]
fn egress_bandwidth_limit_and_programs_share_a_device() {
    let (_topology, node) = node();
    let rates = json!({"bandwidth": {"egressRate": 1_000_000, "egressBurst": 1_000_000}});
    let config = with(&node.config(), "cniVersion", json!("1.0.0"));
    let sandbox = node.sandbox("default/limited");
    let add = with(&config, "runtimeConfig", rates.clone());
    let first = node.cni_with("ADD", &add, &sandbox).ok();
    let bandwidth = json!({
        "cniVersion": "1.0.0", "name": "sluice", "type": "bandwidth",
        "capabilities": {"bandwidth": true}, "runtimeConfig": rates, "prevResult": first,
    });
    if !dataplane::has_tcx() {
        let binary = plugin("bandwidth");
        let add = CniCall::for_sandbox("ADD", &bandwidth, &sandbox).with_binary(&binary);
        let output = add.run(&node.namespaces);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stdout.contains("create ingress qdisc: file exists"), "{output:?}");
        node.cni_with("DEL", &config, &sandbox).ok();
        return assert_no_pod(&node);
    }
    next_plugin(&node, "ADD", &bandwidth, &sandbox);
    let pod = node.pod_of(&sandbox, first);
    let programs = dataplane::programs(&node, pod.host_device());
    assert_eq!(programs, (vec!["from_pod".to_owned()], vec!["to_pod".to_owned()]));
    next_plugin(&node, "DEL", &bandwidth, &sandbox);
    node.cni_with("DEL", &config, &sandbox).ok();
    assert_no_pod(&node);
}
