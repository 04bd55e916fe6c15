//! The specification's words, as examples.

#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn conf() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "sluice", "type": "sluice", "subnet": "10.244.1.0/24" })
}

#[test]
fn nonsense_in_a_field_is_refused_by_its_name() {
    for (field, value, code, word) in [
        ("cniVersion", json!("0.2.0"), code::INCOMPATIBLE_VERSION, "0.3.1"),
        ("cniVersion", json!(1), code::INVALID_CONFIG, "cniVersion"),
        ("name", json!("-sluice"), code::INVALID_CONFIG, "name"),
        ("name", json!(null), code::INVALID_CONFIG, "name"),
        ("subnet", json!("10.244.1.7/24"), code::INVALID_CONFIG, "10.244.1.0/24"),
        ("subnet", json!("fd00::/64"), code::INVALID_CONFIG, "subnet"),
        ("mtu", json!(67), code::INVALID_CONFIG, "mtu"),
        ("mtu", json!("1500"), code::INVALID_CONFIG, "mtu"),
        ("stateDir", json!("state"), code::INVALID_CONFIG, "stateDir"),
        ("bpffs", json!("bpf"), code::INVALID_CONFIG, "bpffs"),
        ("cni.dev/valid-attachments", json!([{}]), code::INVALID_CONFIG, "valid-attachments"),
    ] {
        let mut conf = conf();
        conf[field] = value.clone();
        let error = NetConf::parse(&conf.to_string()).unwrap_err();
        assert_eq!(error.code, code, "{field} = {value}: {}", error.msg);
        assert!(error.msg.contains(word), "{field} = {value}: {}", error.msg);
    }
    for text in ["", "{", "[]", "null", "7"] {
        assert_eq!(NetConf::parse(text).unwrap_err().code, code::DECODE, "{text}");
    }
}

#[test]
fn what_is_absent_has_its_default_and_what_is_unknown_is_ignored() {
    let mut json = conf();
    json["dns"] = json!({});
    json["capabilities"] = json!({ "bandwidth": true });
    let conf = NetConf::parse(&json.to_string()).unwrap();
    assert_eq!(conf.mtu, None);
    assert_eq!(conf.state_dir.to_str(), Some("/var/lib/sluice/cni"));
    assert_eq!(conf.pins.to_str(), Some(sluice_abi::pin::ROOT));
    assert!(!conf.limits_egress);
    json["runtimeConfig"] = json!({ "bandwidth": { "egressRate": 1_000_000 } });
    assert!(NetConf::parse(&json.to_string()).unwrap().limits_egress);
}

#[test]
fn the_environment_is_refused_by_the_name_of_its_variable() {
    let base = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/c1"),
        ("CNI_IFNAME", "eth0"),
    ];
    let read = |variable: &str, value: &str| {
        Environment::read(|name| {
            let given = (name == variable).then(|| value.to_owned());
            given.or_else(|| base.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        })
    };
    for (variable, value) in [
        ("CNI_COMMAND", ""),
        ("CNI_COMMAND", "add"),
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "../c1"),
        ("CNI_NETNS", ""),
        ("CNI_IFNAME", ""),
        ("CNI_IFNAME", "eth0/1"),
        ("CNI_IFNAME", "a-name-too-long-"),
        ("CNI_ARGS", "IgnoreUnknown"),
        ("CNI_ARGS", "K8S_POD_NAME=web 0"),
    ] {
        let error = read(variable, value).unwrap_err();
        assert_eq!(error.code, code::INVALID_ENVIRONMENT, "{variable}={value}");
        assert!(error.msg.contains(variable), "{}", error.msg);
    }
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u=1";
    assert_eq!(read("CNI_ARGS", args).unwrap().owner(), "pod shop/web-0");
    assert_eq!(read("CNI_ARGS", "").unwrap().owner(), "container c1");
}

proptest! {
    #[test]
    fn no_input_panics(text in ".{0,200}", value in "\\PC{0,40}") {
        let _ = NetConf::parse(&text);
        for field in ["cniVersion", "name", "subnet", "mtu", "stateDir", "runtimeConfig"] {
            let mut conf = conf();
            conf[field] = json!(value);
            let _ = NetConf::parse(&conf.to_string());
        }
        let _ = Environment::read(|name| {
            Some(if name == "CNI_COMMAND" { "ADD".into() } else { value.clone() })
        });
    }
}
