//! GC and STATUS.

use netns_tests::cni::code;
use netns_tests::dataplane;
use serde_json::{Value, json};

use crate::{leases, node, pod_devices_and_routes, with};

#[test]
fn gc_removes_all_attachments_but_the_valid_ones() {
    let (_topology, node) = node();
    let pods: Vec<_> = (0..4).map(|n| node.pod(&format!("default/web-{n}"))).collect();
    node.drop_sandbox(&pods[2].sandbox.path);
    let valid = json!([
        {"containerID": pods[0].sandbox.id, "ifname": "eth0"},
        {"containerID": pods[1].sandbox.id, "ifname": "net1"},
    ]);
    let config = with(&node.config(), "cni.dev/valid-attachments", valid);
    for _ in 0..2 {
        node.cni_of_network("GC", &config).ok();
        assert_eq!(leases(&node), [(pods[0].sandbox.id.clone(), pods[0].address.to_string())]);
        assert_eq!(pod_devices_and_routes(&node), (vec![pods[0].host_device().to_owned()], 1));
        assert_eq!(dataplane::local_pods(&node), 1);
        assert!(dataplane::local_pod(&node, pods[0].address).is_some());
    }
}

#[test]
fn gc_with_an_empty_list_removes_every_attachment_of_its_network_only() {
    let (_topology, node) = node();
    let pod = node.pod("default/web");
    let empty = with(&node.config(), "cni.dev/valid-attachments", json!([]));
    let other = with(&empty, "name", json!("other"));
    node.cni_of_network("GC", &other).ok();
    assert!(dataplane::local_pod(&node, pod.address).is_some());
    node.cni_of_network("GC", &empty).ok();
    crate::assert_no_pod(&node);
}

#[test]
fn gc_without_valid_attachments_is_refused_and_removes_nothing() {
    let (_topology, node) = node();
    let pod = node.pod("default/web");
    for list in [Value::Null, json!("all"), json!([{"containerID": 7}])] {
        let config = with(&node.config(), "cni.dev/valid-attachments", list);
        let gc = node.cni_of_network("GC", &config);
        gc.error(code::INVALID_CONFIG, &["\"cni.dev/valid-attachments\""]);
        assert_eq!(leases(&node), [(pod.sandbox.id.clone(), pod.address.to_string())]);
        assert_eq!(pod_devices_and_routes(&node), (vec![pod.host_device().to_owned()], 1));
        assert!(dataplane::local_pod(&node, pod.address).is_some());
    }
}

#[test]
fn status_reports_whether_the_dataplane_is_loaded_without_an_agent() {
    let (_topology, node) = node();
    let status = || node.cni_of_network("STATUS", &node.config());
    assert_eq!(status().ok(), Value::Null);
    dataplane::unload(&node);
    status().error(code::PLUGIN_NOT_AVAILABLE, &["dataplane", "agent"]);
    dataplane::load(&node);
    status().ok();
}

/// A runtime takes a failing STATUS for a node that is not Ready.
#[test]
fn status_does_not_depend_on_free_addresses_or_leases() {
    let (_topology, node) = node();
    let config = with(&node.config(), "subnet", json!("10.244.1.0/30"));
    node.cni_with("ADD", &config, &node.sandbox("default/web-0")).ok();
    let add = node.cni_with("ADD", &config, &node.sandbox("default/web-1"));
    add.error(code::RANGE_EXHAUSTED, &["default/web-1", "10.244.1.0/30"]);
    node.cni_of_network("STATUS", &config).ok();
    let unreadable = with(&config, "stateDir", json!("/etc/hostname"));
    node.cni_of_network("STATUS", &unreadable).ok();
}
