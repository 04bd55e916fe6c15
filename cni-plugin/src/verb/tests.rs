//! Error codes of calls that fail before they change the kernel. Privileges are not needed.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_bpf::netlink::NetlinkError;
use sluice_pod::lease::{Lease, fixture};
use tempfile::TempDir;

use super::*;
use crate::spec::golden;

/// A folder for state and pins, both empty.
struct Node {
    dir: TempDir,
}

impl Node {
    fn new() -> Node {
        Node { dir: tempfile::tempdir().unwrap() }
    }

    fn conf(&self) -> Value {
        json!({
            "cniVersion": "1.1.0",
            "name": "sluice",
            "type": "sluice",
            "subnet": "10.244.1.0/24",
            "mtu": 1500,
            "stateDir": self.dir.path().join("state"),
            "bpffs": self.dir.path().join("pins"),
        })
    }

    /// Writes a lease of container c1.
    fn lease(&self) -> String {
        let lease = Lease {
            address: [10, 244, 1, 2].into(),
            netns: "/nonexistent".into(),
            ..fixture::lease("c1")
        };
        let leases = self.dir.path().join("state/leases");
        fs::create_dir_all(&leases).unwrap();
        let text = serde_json::to_vec(&lease).unwrap();
        fs::write(leases.join(Entry::of(&lease).file_name()), text).unwrap();
        lease.host_ifname
    }
}

fn call(verb: &str, netns: &str, conf: &Value) -> Result<Option<Value>, CniError> {
    let environment = Environment::read(|name| {
        let value = match name {
            "CNI_COMMAND" => verb,
            "CNI_CONTAINERID" => "c1",
            "CNI_NETNS" => netns,
            "CNI_IFNAME" => "eth0",
            "CNI_ARGS" => "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
            _ => return None,
        };
        Some(value.to_owned())
    });
    run(&environment.unwrap(), &conf.to_string())
}

#[track_caller]
fn fails(verb: &str, netns: &str, conf: &Value, code: u32, words: &[&str]) {
    let error = call(verb, netns, conf).unwrap_err();
    assert_eq!(error.code, code, "{}", error.msg);
    for word in words {
        assert!(error.msg.contains(word), "{word:?} is not in {:?}", error.msg);
    }
}

fn with(mut conf: Value, field: &str, value: Value) -> Value {
    conf[field] = value;
    conf
}

#[test]
fn version_lists_the_implemented_versions() {
    let answer = |conf: Value| call("VERSION", "", &conf).unwrap().unwrap();
    golden("version", &answer(json!({ "cniVersion": "0.4.0" })));
    golden("version-of-unknown", &answer(json!({ "cniVersion": "9.9.9" })));
}

#[test]
fn verbs_need_the_version_that_introduced_them() {
    let node = Node::new();
    for (verb, version, first) in [
        ("CHECK", "0.3.1", "0.4.0"),
        ("GC", "0.3.1", "1.1.0"),
        ("GC", "1.0.0", "1.1.0"),
        ("STATUS", "1.0.0", "1.1.0"),
    ] {
        let conf = with(node.conf(), "cniVersion", json!(version));
        let code = code::INCOMPATIBLE_VERSION;
        fails(verb, "/nonexistent", &conf, code, &[verb, version, first]);
    }
    // With its first version, a verb fails for what is missing next.
    let conf = with(node.conf(), "cniVersion", json!("0.4.0"));
    fails("CHECK", "/nonexistent", &conf, code::INVALID_CONFIG, &["prevResult"]);
    fails("GC", "", &node.conf(), code::INVALID_CONFIG, &["cni.dev/valid-attachments", "GC"]);
}

#[test]
fn every_verb_validates_the_configuration() {
    let node = Node::new();
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        let conf = with(node.conf(), "name", json!("../etc"));
        fails(verb, "/nonexistent", &conf, code::INVALID_CONFIG, &["\"name\""]);
        let conf = with(node.conf(), "cniVersion", json!("9.9.9"));
        fails(verb, "/nonexistent", &conf, code::INCOMPATIBLE_VERSION, &["9.9.9", "1.1.0"]);
        fails(verb, "/nonexistent", &json!([]), code::DECODE, &["JSON object"]);
    }
}

#[test]
fn add_names_what_it_lacks() {
    let node = Node::new();
    let pod = "pod shop/web-0: ";
    let conf = with(node.conf(), "subnet", json!(null));
    fails("ADD", "/nonexistent", &conf, code::INVALID_CONFIG, &[pod, "\"subnet\"", "missing"]);
    let conf = with(node.conf(), "prevResult", json!({ "cniVersion": "1.1.0" }));
    fails("ADD", "/nonexistent", &conf, code::UNSUPPORTED_FIELD, &[pod, "prevResult", "first"]);
    let conf = node.conf();
    fails("ADD", "/nonexistent", &conf, code::UNKNOWN_CONTAINER, &[pod, "/nonexistent"]);
    let own = "/proc/self/ns/net";
    fails("ADD", own, &conf, code::INVALID_ENVIRONMENT, &[pod, own, "of the node"]);
    let file = node.dir.path().join("file");
    fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    fails("ADD", file, &conf, code::INVALID_ENVIRONMENT, &[pod, file, "not a network namespace"]);
    assert!(!node.dir.path().join("state").exists(), "nothing was leased");
}

#[test]
fn check_reports_what_differs() {
    let node = Node::new();
    let pod = "pod shop/web-0: ";
    let result = |address: &str, host: &str, pod: &str| {
        json!({
            "cniVersion": "1.1.0",
            "ips": [{ "address": "fd00::1/128" }, { "address": address }],
            "interfaces": [{ "name": host }, { "name": pod }, { "name": "other" }],
        })
    };
    let conf = |result: Value| with(node.conf(), "prevResult", result);
    let empty = conf(json!({}));
    fails("CHECK", "/nonexistent", &node.conf(), code::INVALID_CONFIG, &[pod, "prevResult"]);
    fails("CHECK", "/nonexistent", &empty, code::UNKNOWN_CONTAINER, &[pod, "no address"]);
    let device = node.lease();
    fails("CHECK", "/nonexistent", &empty, code::CHANGED, &[pod, "10.244.1.2/32"]);
    for (result, word) in [
        (result("10.244.1.3/32", &device, "eth0"), "10.244.1.2/32"),
        (result("10.244.1.2/24", &device, "eth0"), "10.244.1.2/32"),
        (result("10.244.1.2/32", "slc0", "eth0"), device.as_str()),
        (result("10.244.1.2/32", &device, "eth1"), "eth0"),
        (result("10.244.1.2/32", &device, "eth0"), "/nonexistent"),
    ] {
        fails("CHECK", "/nonexistent", &conf(result), code::CHANGED, &[pod, word]);
    }
}

#[test]
fn status_requires_a_range_and_the_dataplane() {
    let node = Node::new();
    let conf = with(node.conf(), "subnet", json!(null));
    fails("STATUS", "", &conf, code::INVALID_CONFIG, &["\"subnet\"", "missing"]);
    let words = ["dataplane is not loaded", "agent"];
    fails("STATUS", "", &node.conf(), code::NOT_AVAILABLE, &words);
}

#[test]
fn check_reports_a_damaged_lease() {
    let node = Node::new();
    let device = node.lease();
    let conf = with(node.conf(), "prevResult", json!({}));
    let lease = format!("state/leases/10.244.1.2+7+{device}");
    fs::write(node.dir.path().join(lease), "{").unwrap();
    fails("CHECK", "/nonexistent", &conf, code::CHANGED, &["pod shop/web-0: ", "damaged", &device]);
}

/// A lease begins under the lock, and the reuse delay of an address too: neither while another call has it.
#[test]
fn time_of_a_change_is_read_after_the_lock_was_waited_for() {
    let node = Node::new();
    node.lease();
    let conf = NetConf::parse(&node.conf().to_string()).unwrap();
    let store = Store::new(&conf.state_dir);
    let held = store.lock("test").unwrap();
    let start = now().unwrap();
    let ready = Barrier::new(2);
    let locked_at = thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut host = open_host().unwrap();
            ready.wait();
            lock(&store, &conf, "waiting", &mut host).unwrap().1
        });
        ready.wait();
        // The clock has whole seconds: the call has begun before this one.
        while now().unwrap().seconds < start.seconds + 2 {
            thread::sleep(Duration::from_millis(10));
        }
        drop(held);
        waiting.join().unwrap()
    });
    assert!(locked_at.seconds >= start.seconds + 2, "{start:?}, {locked_at:?}");
}

#[test]
fn leases_that_cannot_be_rebuilt_are_not_taken_for_none() {
    let source = std::io::Error::from_raw_os_error(1).into();
    let refused = NetlinkError { operation: "list network devices".into(), source };
    let error = open_failed(OpenError::Rebuild(refused));
    assert_eq!(error.code, code::TRY_AGAIN);
    assert!(error.msg.contains("list network devices"), "{}", error.msg);
}
