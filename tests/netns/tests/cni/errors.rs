//! Invalid calls: the exact error code, and what the message names.

use netns_tests::cni::code::*;
use netns_tests::{CniCall, Node, Pod, Sandbox, command, dataplane};
use serde_json::{Value, json};

use crate::{LEASES, assert_no_pod, damage_leases, devices, leases, node, with};

/// The one invalid part of a call that is valid otherwise.
enum Invalid {
    /// A field of the configuration; null: missing.
    Field(&'static str, Value),
    /// An environment variable; empty: not set.
    Variable(&'static str, &'static str),
    /// The whole of standard input.
    Input(&'static str),
}

#[test]
fn invalid_add_is_refused_with_its_code_and_changes_nothing() {
    use Invalid::{Field, Input, Variable};
    let cases: [(Invalid, u64, &[&str]); 31] = [
        (Input(""), DECODING_FAILURE, &["JSON"]),
        (Input("{"), DECODING_FAILURE, &["JSON"]),
        (Input("[]"), DECODING_FAILURE, &["JSON object"]),
        (Field("cniVersion", Value::Null), INCOMPATIBLE_VERSION, &["0.1.0", "1.1.0"]),
        (Field("cniVersion", json!("0.2.0")), INCOMPATIBLE_VERSION, &["0.2.0"]),
        (Field("cniVersion", json!("2.0.0")), INCOMPATIBLE_VERSION, &["2.0.0"]),
        (Field("cniVersion", json!(1)), INVALID_CONFIG, &["cniVersion"]),
        (Field("name", Value::Null), INVALID_CONFIG, &["\"name\""]),
        (Field("name", json!("../etc")), INVALID_CONFIG, &["\"name\""]),
        (Field("subnet", Value::Null), INVALID_CONFIG, &["\"subnet\"", "missing"]),
        (Field("subnet", json!("10.244.1.0")), INVALID_CONFIG, &["\"subnet\"", "10.244.1.0"]),
        (Field("subnet", json!("10.244.1.7/24")), INVALID_CONFIG, &["\"subnet\"", "10.244.1.0/24"]),
        (Field("subnet", json!("10.244.1.0/31")), INVALID_CONFIG, &["\"subnet\"", "/31"]),
        (Field("subnet", json!("fd00::/64")), INVALID_CONFIG, &["\"subnet\"", "fd00::"]),
        (Field("mtu", json!(67)), INVALID_CONFIG, &["\"mtu\"", "67", "68", "65535"]),
        (Field("mtu", json!(65_536)), INVALID_CONFIG, &["\"mtu\"", "65536"]),
        (Field("mtu", json!(-1)), INVALID_CONFIG, &["\"mtu\"", "-1"]),
        (Field("mtu", json!("1500")), INVALID_CONFIG, &["\"mtu\""]),
        (Field("stateDir", json!("var/lib")), INVALID_CONFIG, &["\"stateDir\""]),
        (Field("bpffs", json!(7)), INVALID_CONFIG, &["\"bpffs\""]),
        (Field("prevResult", json!({"cniVersion": "1.1.0"})), UNSUPPORTED_FIELD, &["prevResult"]),
        (Variable("CNI_COMMAND", ""), INVALID_ENVIRONMENT, &["CNI_COMMAND"]),
        (Variable("CNI_COMMAND", "add"), INVALID_ENVIRONMENT, &["CNI_COMMAND", "add"]),
        (Variable("CNI_CONTAINERID", ""), INVALID_ENVIRONMENT, &["CNI_CONTAINERID"]),
        (Variable("CNI_CONTAINERID", "../../etc"), INVALID_ENVIRONMENT, &["CNI_CONTAINERID"]),
        (Variable("CNI_IFNAME", ""), INVALID_ENVIRONMENT, &["CNI_IFNAME"]),
        (Variable("CNI_IFNAME", "sixteen-letters-"), INVALID_ENVIRONMENT, &["CNI_IFNAME"]),
        (Variable("CNI_IFNAME", "a/b"), INVALID_ENVIRONMENT, &["CNI_IFNAME"]),
        (Variable("CNI_NETNS", ""), INVALID_ENVIRONMENT, &["CNI_NETNS"]),
        (
            Variable("CNI_NETNS", "/run/netns/missing"),
            UNKNOWN_CONTAINER,
            &["/run/netns/missing", "default/web"],
        ),
        (Variable("CNI_ARGS", "K8S_POD_NAME"), INVALID_ENVIRONMENT, &["CNI_ARGS", "K8S_POD_NAME"]),
    ];
    let (_topology, node) = node();
    let sandbox = node.sandbox("default/web");
    for (invalid, code, words) in cases {
        let valid = CniCall::for_sandbox("ADD", &node.config(), &sandbox);
        let call = match invalid {
            Field(name, value) => {
                CniCall::for_sandbox("ADD", &with(&node.config(), name, value), &sandbox)
            }
            Variable(name, value) => valid.set(name, value),
            Input(text) => CniCall::raw("ADD", text)
                .set("CNI_CONTAINERID", &sandbox.id)
                .set("CNI_NETNS", &sandbox.path.display().to_string())
                .set("CNI_IFNAME", "eth0"),
        };
        call.run(&node.namespaces).error(code, words);
    }
    assert_no_pod(&node);
}

/// Code 4 is a wrong argument of the runtime, code 5 a failure of the node.
#[test]
fn path_that_is_not_a_pod_network_namespace_is_refused() {
    let (_topology, node) = node();
    let sandbox = node.sandbox("default/web");
    for (path, code) in [
        ("/etc/hostname", INVALID_ENVIRONMENT),
        ("/proc/self/ns/net", INVALID_ENVIRONMENT),
        ("/proc/self/ns/uts", INVALID_ENVIRONMENT),
        ("/run/netns", INVALID_ENVIRONMENT),
        ("/etc/hostname/net", IO_FAILURE),
    ] {
        let call = CniCall::for_sandbox("ADD", &node.config(), &sandbox).set("CNI_NETNS", path);
        call.run(&node.namespaces).error(code, &[path, "default/web"]);
    }
    assert_no_pod(&node);
}

#[test]
fn unwritable_state_is_an_io_failure() {
    let (_topology, node) = node();
    let sandbox = node.sandbox("default/web");
    let config = with(&node.config(), "stateDir", json!("/etc/hostname"));
    node.cni_with("ADD", &config, &sandbox).error(IO_FAILURE, &["/etc/hostname"]);
    // A pod can be deleted although its address cannot be released.
    node.cni_with("DEL", &config, &sandbox).ok();
    assert_no_pod(&node);
}

#[test]
fn invalid_check_is_refused_with_its_code() {
    let (_topology, node) = node();
    let pod = node.pod("default/web");
    let unknown = node.sandbox("default/unknown");
    let config = with(&node.config(), "prevResult", pod.result.clone());
    let check = |config: &Value, sandbox: &Sandbox| node.cni_with("CHECK", config, sandbox);
    check(&config, &pod.sandbox).ok();
    check(&node.config(), &pod.sandbox).error(INVALID_CONFIG, &["\"prevResult\""]);
    check(&config, &unknown).error(UNKNOWN_CONTAINER, &["default/unknown"]);
    for (list, value) in
        [("ips", json!([{"address": "10.244.1.99/32"}])), ("interfaces", json!([]))]
    {
        let config = with(&config, "prevResult", with(&pod.result, list, value));
        check(&config, &pod.sandbox).error(CHECK_FAILED, &["default/web", list]);
    }
    damage_leases(&node, "{");
    check(&config, &pod.sandbox).error(CHECK_FAILED, &[LEASES, "damaged"]);
}

#[test]
fn unknown_fields_and_arguments_are_ignored() {
    let (_topology, node) = node();
    let sandbox = node.sandbox("default/web");
    let config = with(&node.config(), "ipMasq", json!(true));
    let config = with(&config, "runtimeConfig", json!({"portMappings": []}));
    let config = with(&config, "capabilities", json!({"portMappings": true}));
    let call = CniCall::for_sandbox("ADD", &config, &sandbox);
    call.set("CNI_ARGS", "COLOUR=blue;K8S_POD_NAME=web").run(&node.namespaces).ok();
    node.cni("DEL", &sandbox).ok();
    assert_no_pod(&node);
}

#[test]
fn existing_interface_is_refused_and_not_changed() {
    let (_topology, node) = node();
    let first = node.pod("default/web");
    // The same attachment again: the specification requires an error.
    node.cni("ADD", &first.sandbox).error(INTERFACE_EXISTS, &["default/web", "eth0", "exists"]);
    // Another container id for the same namespace.
    let mut other = first.sandbox.clone();
    other.id = "f".repeat(64);
    node.cni("ADD", &other).error(INTERFACE_EXISTS, &["default/web", "eth0"]);
    assert!(has_interface(&node, &first));
    assert_eq!(leases(&node).len(), 1);
    node.cni("DEL", &other).ok();
    assert!(has_interface(&node, &first), "the DEL of one attachment removed the other");
    node.cni("DEL", &first.sandbox).ok();
    assert_no_pod(&node);
}

fn has_interface(node: &Node, pod: &Pod) -> bool {
    devices(&pod.sandbox.namespaces).contains(&"eth0".to_owned())
        && dataplane::local_pod(node, pod.address).is_some()
}

/// ADD sets sysctls of the device after it wrote the row: all of it has to be removed again.
#[test]
fn add_without_write_access_to_sysctls_is_undone() {
    let (_topology, node) = node();
    node.sysctl("net/ipv4/conf/default/rp_filter", "1");
    let mount = |arguments: &[&str]| command(&node.namespaces, "mount", arguments);
    mount(&["--bind", "/proc/sys", "/proc/sys"]);
    mount(&["-o", "remount,bind,ro", "/proc/sys"]);
    let sandbox = node.sandbox("default/web");
    node.cni("ADD", &sandbox)
        .error(IO_FAILURE, &["default/web", "/proc/sys/net/", "Read-only file system"]);
    assert_no_pod(&node);
    assert_eq!(devices(&sandbox.namespaces), ["lo"]);
    mount(&["-o", "remount,bind,rw", "/proc/sys"]);
    node.cni("ADD", &sandbox).ok();
}
