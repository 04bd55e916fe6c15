//! Results and verbs of each version of the CNI specification.

use netns_tests::CniCall;
use netns_tests::cni::code;
use serde_json::{Value, json};

use crate::{assert_no_pod, node, with};

#[test]
fn result_has_the_form_of_the_requested_version() {
    // Version; the family beside each address; MTU in interfaces.
    let cases = [
        ("0.3.1", Some("4"), false),
        ("0.4.0", Some("4"), false),
        ("1.0.0", None, false),
        ("1.1.0", None, true),
    ];
    let (_topology, node) = node();
    for (version, family, mtu) in cases {
        let config = with(&node.config(), "cniVersion", json!(version));
        let sandbox = node.sandbox("default/web");
        let result = node.cni_with("ADD", &config, &sandbox).ok();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0]["version"].as_str(), family, "{version}: {result}");
        let interfaces = result["interfaces"].as_array().unwrap();
        assert_eq!(interfaces.len(), 2, "{result}");
        assert_eq!(interfaces[1]["mtu"].is_u64(), mtu, "{version}: {result}");
        assert_eq!(interfaces[1]["name"], "eth0");
        assert_eq!(interfaces[1]["sandbox"], json!(sandbox.path));
        assert_eq!(result["ips"][0]["interface"], 1);
        assert_eq!(result["ips"][0]["gateway"], "169.254.1.1");

        if version != "0.3.1" {
            let check = with(&config, "prevResult", result);
            node.cni_with("CHECK", &check, &sandbox).ok();
        }
        node.cni_with("DEL", &config, &sandbox).ok();
    }
    assert_no_pod(&node);
}

#[test]
fn verb_of_a_later_version_is_refused() {
    let (_topology, node) = node();
    let pod = node.pod("default/web");
    for (verb, version, first) in
        [("CHECK", "0.3.1", "0.4.0"), ("GC", "1.0.0", "1.1.0"), ("STATUS", "0.4.0", "1.1.0")]
    {
        let config = with(&node.config(), "cniVersion", json!(version));
        let config = with(&config, "prevResult", pod.result.clone());
        let config = with(&config, "cni.dev/valid-attachments", json!([]));
        let output = node.cni_with(verb, &config, &pod.sandbox);
        output.error(code::INCOMPATIBLE_VERSION, &[verb, version, first]);
        let error: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(error["cniVersion"], version, "{error}");
    }
    assert_eq!(crate::leases(&node).len(), 1, "GC removed a pod");
}

#[test]
fn version_lists_all_supported_versions() {
    let (_topology, node) = node();
    for (requested, reported) in [("0.3.1", "0.3.1"), ("1.1.0", "1.1.0"), ("9.9.9", "1.1.0")] {
        let call = CniCall::new("VERSION", &json!({"cniVersion": requested}));
        let result = call.run(&node.namespaces).ok();
        let supported: Vec<&str> = result["supportedVersions"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(supported, ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        assert_eq!(result["cniVersion"], reported);
    }
}
