//! Each version of the specification gets its own words.

use netns_tests::Call;
use serde_json::{Value, json};

use crate::{node, nothing_is_left, with};

#[test]
fn the_result_is_in_the_version_asked() {
    // Version; the family beside each address; MTU in interfaces.
    let cases = [
        ("0.3.1", Some("4"), false),
        ("0.4.0", Some("4"), false),
        ("1.0.0", None, false),
        ("1.1.0", None, true),
    ];
    let (_world, node) = node();
    for (version, family, mtu) in cases {
        let config = with(&node.config(), "cniVersion", json!(version));
        let sandbox = node.sandbox("default/web");
        let result = Call::for_sandbox("ADD", &config, &sandbox).run(&node.spaces).ok();
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
            Call::for_sandbox("CHECK", &check, &sandbox).run(&node.spaces).ok();
        }
        Call::for_sandbox("DEL", &config, &sandbox).run(&node.spaces).ok();
    }
    nothing_is_left(&node);
}

#[test]
fn version_lists_all_whatever_is_asked() {
    let (_world, node) = node();
    for version in ["0.3.1", "1.1.0"] {
        let answer = Call::new("VERSION", &json!({"cniVersion": version})).run(&node.spaces).ok();
        let supported: Vec<&str> = answer["supportedVersions"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(supported, ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        assert!(answer["cniVersion"].is_string());
    }
}
