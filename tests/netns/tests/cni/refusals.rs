//! Calls that cannot be right: which code, and what the message names.

use netns_tests::{Call, Node};
use serde_json::{Value, json};

use crate::{node, nothing_is_left, with};

/// One bad thing about an ADD that is good otherwise.
enum Bad {
    /// A field of the configuration; null: it is missing.
    Field(&'static str, Value),
    /// An environment variable; empty: it is not set.
    Variable(&'static str, &'static str),
    /// The whole of standard input.
    Input(&'static str),
}

#[test]
fn an_add_that_cannot_be_right_is_refused_and_leaves_nothing() {
    use Bad::{Field, Input, Variable};
    let cases: [(Bad, u64, &[&str]); 29] = [
        (Input(""), 6, &["JSON"]),
        (Input("{"), 6, &["JSON"]),
        (Input("[]"), 6, &["JSON object"]),
        (Field("cniVersion", Value::Null), 1, &["0.1.0", "1.1.0"]),
        (Field("cniVersion", json!("0.2.0")), 1, &["0.2.0"]),
        (Field("cniVersion", json!("2.0.0")), 1, &["2.0.0"]),
        (Field("cniVersion", json!(1)), 7, &["cniVersion"]),
        (Field("name", Value::Null), 7, &["\"name\""]),
        (Field("name", json!("../etc")), 7, &["\"name\""]),
        (Field("subnet", Value::Null), 7, &["\"subnet\"", "missing"]),
        (Field("subnet", json!("10.244.1.0")), 7, &["\"subnet\"", "10.244.1.0"]),
        (Field("subnet", json!("10.244.1.7/24")), 7, &["\"subnet\"", "10.244.1.0/24"]),
        (Field("subnet", json!("10.244.1.0/31")), 7, &["\"subnet\"", "/31"]),
        (Field("subnet", json!("fd00::/64")), 7, &["\"subnet\"", "fd00::"]),
        (Field("mtu", json!(20)), 7, &["\"mtu\"", "20"]),
        (Field("mtu", json!("1500")), 7, &["\"mtu\""]),
        (Field("stateDir", json!("var/lib")), 7, &["\"stateDir\""]),
        (Field("bpffs", json!(7)), 7, &["\"bpffs\""]),
        (Field("prevResult", json!({"cniVersion": "1.1.0"})), 2, &["prevResult"]),
        (Variable("CNI_COMMAND", ""), 4, &["CNI_COMMAND"]),
        (Variable("CNI_COMMAND", "add"), 4, &["CNI_COMMAND", "add"]),
        (Variable("CNI_CONTAINERID", ""), 4, &["CNI_CONTAINERID"]),
        (Variable("CNI_CONTAINERID", "../../etc"), 4, &["CNI_CONTAINERID"]),
        (Variable("CNI_IFNAME", ""), 4, &["CNI_IFNAME"]),
        (Variable("CNI_IFNAME", "sixteen-letters-"), 4, &["CNI_IFNAME"]),
        (Variable("CNI_IFNAME", "a/b"), 4, &["CNI_IFNAME"]),
        (Variable("CNI_NETNS", ""), 4, &["CNI_NETNS"]),
        (Variable("CNI_NETNS", "/run/netns/gone"), 3, &["/run/netns/gone", "default/web"]),
        (Variable("CNI_ARGS", "K8S_POD_NAME"), 4, &["CNI_ARGS", "K8S_POD_NAME"]),
    ];
    let (_world, node) = node();
    let sandbox = node.sandbox("default/web");
    for (bad, code, words) in cases {
        let good = Call::for_sandbox("ADD", &node.config(), &sandbox);
        let call = match bad {
            Field(name, value) => {
                Call::for_sandbox("ADD", &with(&node.config(), name, value), &sandbox)
            }
            Variable(name, value) => good.set(name, value),
            Input(text) => Call::raw("ADD", text)
                .set("CNI_CONTAINERID", &sandbox.id)
                .set("CNI_NETNS", &sandbox.path.display().to_string())
                .set("CNI_IFNAME", "eth0"),
        };
        call.run(&node.spaces).error(code, words);
    }
    nothing_is_left(&node);
}

#[test]
fn what_is_no_network_namespace_of_a_pod_is_refused() {
    let (_world, node) = node();
    let sandbox = node.sandbox("default/web");
    for path in ["/etc/hostname", "/proc/self/ns/net", "/proc/self/ns/uts", "/run/netns"] {
        let call = Call::for_sandbox("ADD", &node.config(), &sandbox).set("CNI_NETNS", path);
        let outcome = call.run(&node.spaces);
        assert_eq!(outcome.code, Some(1), "{path}: {}", outcome.stdout);
        assert!(outcome.stdout.contains(path), "{}", outcome.stdout);
    }
    nothing_is_left(&node);
}

#[test]
fn unknown_fields_and_unknown_arguments_do_no_harm() {
    let (_world, node) = node();
    let sandbox = node.sandbox("default/web");
    let config = with(&node.config(), "ipMasq", json!(true));
    let config = with(&config, "runtimeConfig", json!({"portMappings": []}));
    let config = with(&config, "capabilities", json!({"portMappings": true}));
    let call = Call::for_sandbox("ADD", &config, &sandbox);
    call.set("CNI_ARGS", "COLOUR=blue;K8S_POD_NAME=web").run(&node.spaces).ok();
    node.cni("DEL", &sandbox).ok();
    nothing_is_left(&node);
}

#[test]
fn an_interface_that_is_there_already_is_not_touched() {
    let (_world, node) = node();
    let first = node.pod("default/web");
    // The same attachment again: the specification wants an error.
    let text = node.cni("ADD", &first.sandbox).error(100, &["default/web", "eth0"]);
    assert!(text.contains("exists"), "{text}");
    // Another container id for the same namespace.
    let mut other = first.sandbox.clone();
    other.id = "f".repeat(64);
    node.cni("ADD", &other).error(100, &["default/web", "eth0"]);
    assert!(works(&node, &first));
    node.cni("DEL", &other).ok();
    assert!(works(&node, &first), "the DEL of one attachment took the other's interface");
    node.cni("DEL", &first.sandbox).ok();
    nothing_is_left(&node);
}

fn works(node: &Node, pod: &netns_tests::Pod) -> bool {
    crate::devices(&pod.sandbox.spaces).contains(&"eth0".to_owned())
        && netns_tests::dataplane::endpoint(node, pod.address).is_some()
}
