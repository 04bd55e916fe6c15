//! GC and STATUS.

use netns_tests::{Call, dataplane};
use serde_json::json;

use crate::{leases, node, traces, with};

#[test]
fn gc_takes_everything_but_the_attachments_named() {
    let (_world, node) = node();
    let pods: Vec<_> = (0..4).map(|n| node.pod(&format!("default/web-{n}"))).collect();
    node.drop_sandbox(&pods[2].sandbox.path);
    let valid = json!([
        {"containerID": pods[0].sandbox.id, "ifname": "eth0"},
        {"containerID": pods[1].sandbox.id, "ifname": "net1"},
    ]);
    let config = with(&node.config(), "cni.dev/valid-attachments", valid);
    Call::new("GC", &config).run(&node.spaces).ok();
    assert_eq!(leases(&node), [(pods[0].sandbox.id.clone(), pods[0].address.to_string())]);
    assert_eq!(traces(&node).0, [pods[0].host_device()]);
    assert_eq!(dataplane::endpoints(&node), 1);
    assert!(dataplane::endpoint(&node, pods[0].address).is_some());
    // Twice is fine.
    Call::new("GC", &config).run(&node.spaces).ok();
}

#[test]
fn gc_without_a_list_touches_nothing() {
    let (_world, node) = node();
    node.pod("default/web");
    let outcome = Call::new("GC", &node.config()).run(&node.spaces);
    assert_eq!(leases(&node).len(), 1, "{}", outcome.stdout);
}

#[test]
fn status_says_whether_add_would_work_and_needs_no_agent() {
    let (_world, node) = node();
    let status = || Call::new("STATUS", &node.config()).run(&node.spaces);
    assert_eq!(status().ok(), serde_json::Value::Null);
    dataplane::unload(&node);
    status().error(50, &["dataplane is not loaded"]);
    dataplane::load(&node);
    status().ok();
}
