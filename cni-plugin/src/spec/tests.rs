//! Configurations, environments and results: examples, properties and golden files.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::Ipv4Addr;
use std::path::Path;
use std::{env, fs};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use sluice_pod::{HostPort, Protocol};

use super::*;

/// Compares with `cases/<name>.json`, or writes it if the variable UPDATE is set.
#[track_caller]
pub(crate) fn golden(name: &str, value: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases").join(format!("{name}.json"));
    let text = format!("{value:#}\n");
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(text, expected, "{} (UPDATE=1 rewrites it)", path.display());
}

fn conf() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "sluice", "type": "sluice", "subnet": "10.244.1.0/24" })
}

fn parse_with(field: &str, value: Value) -> Result<NetConf, CniError> {
    let mut conf = conf();
    conf[field] = value;
    NetConf::parse(&conf.to_string())
}

#[test]
fn results_of_each_version() {
    let result = CniResult {
        interfaces: vec![
            Interface {
                name: "slc0123456789a".into(),
                mac: [0x0a, 0, 0x1f, 0x2e, 0x3d, 0x4c],
                mtu: 1450,
                sandbox: None,
            },
            Interface {
                name: "eth0".into(),
                mac: [0x0a, 1, 0x1f, 0x2e, 0x3d, 0x4c],
                mtu: 1450,
                sandbox: Some("/run/netns/c1".into()),
            },
        ],
        ips: vec![IpConfig {
            interface: 1,
            address: Ipv4Addr::new(10, 244, 1, 7),
            prefix: 32,
            gateway: Ipv4Addr::new(169, 254, 1, 1),
        }],
        routes: vec![
            RouteConfig { dst: Ipv4Addr::new(169, 254, 1, 1), prefix: 32, gateway: None },
            RouteConfig {
                dst: Ipv4Addr::UNSPECIFIED,
                prefix: 0,
                gateway: Some(Ipv4Addr::new(169, 254, 1, 1)),
            },
        ],
    };
    for version in Version::ALL {
        golden(&format!("result-{version}"), &result.to_json(version));
    }
}

#[test]
fn errors_of_each_version() {
    let cause = std::io::Error::from_raw_os_error(13);
    for version in Version::ALL {
        let error =
            CniError::caused(code::IO, "cannot use the lease file", &cause).about("pod shop/web-0");
        golden(&format!("error-{version}"), &error.to_json(version));
    }
    let error = CniError::new(code::EXISTS, "interface eth0 already exists");
    golden("error-without-cause", &error.to_json(Version::NEWEST));
}

#[test]
fn answers_have_the_version_of_the_configuration_or_the_newest() {
    for version in Version::ALL {
        assert_eq!(Version::parse(version.text()), Some(version));
        let stdin = json!({ "cniVersion": version.text(), "name": 7 }).to_string();
        assert_eq!(Version::of_answer(&stdin), version);
    }
    assert!(Version::ALL.is_sorted() && Version::ALL.contains(&Version::NEWEST));
    assert!(Version::ALL.iter().all(|version| *version <= Version::NEWEST));
    for stdin in ["", "{", "[]", "{}", r#"{"cniVersion": "0.2.0"}"#, r#"{"cniVersion": 1}"#] {
        assert_eq!(Version::of_answer(stdin), Version::NEWEST, "{stdin}");
    }
}

#[test]
fn an_invalid_field_is_rejected_by_its_name() {
    for (field, value, code, word) in [
        ("cniVersion", json!("0.2.0"), code::INCOMPATIBLE_VERSION, "0.3.1"),
        ("cniVersion", json!(null), code::INCOMPATIBLE_VERSION, "0.1.0"),
        ("cniVersion", json!(1), code::INVALID_CONFIG, "1"),
        ("name", json!("-sluice"), code::INVALID_CONFIG, "-sluice"),
        ("name", json!("slu ice"), code::INVALID_CONFIG, "letters"),
        ("name", json!(""), code::INVALID_CONFIG, "letters"),
        ("name", json!(null), code::INVALID_CONFIG, "missing"),
        ("subnet", json!("10.244.1.7/24"), code::INVALID_CONFIG, "10.244.1.0/24"),
        ("subnet", json!("fd00::/64"), code::INVALID_CONFIG, "fd00::/64"),
        ("mtu", json!(67), code::INVALID_CONFIG, "between 68 and 65535"),
        ("mtu", json!(65_536), code::INVALID_CONFIG, "between 68 and 65535"),
        ("mtu", json!(-1), code::INVALID_CONFIG, "-1"),
        ("mtu", json!("1500"), code::INVALID_CONFIG, "\"1500\""),
        ("stateDir", json!("state"), code::INVALID_CONFIG, "\"state\""),
        ("stateDir", json!(""), code::INVALID_CONFIG, "absolute"),
        ("bpffs", json!("bpf"), code::INVALID_CONFIG, "\"bpf\""),
        ("cni.dev/valid-attachments", json!([{}]), code::INVALID_CONFIG, "containerID"),
        ("cni.dev/valid-attachments", json!(null), code::INVALID_CONFIG, "null"),
    ] {
        let error = parse_with(field, value.clone()).unwrap_err();
        assert_eq!(error.code, code, "{field} = {value}: {}", error.msg);
        for word in [format!("{field:?}"), word.to_owned()] {
            assert!(error.msg.contains(&word), "{field} = {value}: {}", error.msg);
        }
    }
    for text in ["", "{", "[]", "null", "7"] {
        assert_eq!(NetConf::parse(text).unwrap_err().code, code::DECODE, "{text}");
    }
}

#[test]
fn fields_are_read_and_missing_ones_have_defaults() {
    let conf = parse_with("dns", json!({})).unwrap();
    assert_eq!((conf.version, conf.name.as_str()), (Version::V1_0_0, "sluice"));
    assert_eq!(conf.subnet().unwrap().to_string(), "10.244.1.0/24");
    assert_eq!(conf.mtu, None);
    assert_eq!(conf.state_dir.to_str(), Some("/run/sluice/cni"));
    assert_eq!(conf.pins.to_str(), Some(sluice_abi::pin::ROOT));
    assert!(conf.prev_result.is_none() && conf.valid_attachments.is_none());

    for (mtu, expected) in [(0, None), (68, Some(68)), (65_535, Some(65_535))] {
        assert_eq!(parse_with("mtu", json!(mtu)).unwrap().mtu, expected);
    }
    let conf = parse_with("stateDir", json!("/run/leases")).unwrap();
    assert_eq!(conf.state_dir.to_str(), Some("/run/leases"));
    let conf = parse_with("bpffs", json!("/sys/fs/bpf/other")).unwrap();
    assert_eq!(conf.pins.to_str(), Some("/sys/fs/bpf/other"));
    let list = json!([{ "containerID": "c1", "ifname": "eth0", "other": 1 }]);
    let conf = parse_with("cni.dev/valid-attachments", list).unwrap();
    let attachment = Attachment { container_id: "c1".into(), ifname: "eth0".into() };
    assert_eq!(conf.valid_attachments().unwrap(), [attachment]);
    assert!(parse_with("prevResult", json!(null)).unwrap().prev_result.is_none());
    assert!(parse_with("prevResult", json!({})).unwrap().prev_result.is_some());
}

#[test]
fn an_egress_limit_is_a_rate_above_zero() {
    for (rate, limits) in [(json!(1), true), (json!(0), false), (json!("1"), false)] {
        let conf = parse_with("runtimeConfig", json!({ "bandwidth": { "egressRate": rate } }));
        assert_eq!(conf.unwrap().limits_egress, limits, "{rate}");
    }
    // As containerd writes it.
    let containerd = json!({ "bandwidth": { "EgressRate": 1 } });
    assert!(parse_with("runtimeConfig", containerd).unwrap().limits_egress);
    let ingress = json!({ "bandwidth": { "ingressRate": 1 } });
    assert!(!parse_with("runtimeConfig", ingress).unwrap().limits_egress);
    assert!(!parse_with("runtimeConfig", json!([])).unwrap().limits_egress);
}

#[test]
fn port_mappings_are_host_ports_of_ipv4() {
    let of = |mappings| {
        let conf = parse_with("runtimeConfig", json!({ "portMappings": mappings }));
        conf.unwrap().host_ports()
    };
    let ports = of(json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": ""},
        {"hostPort": 8080, "containerPort": 80},
        // As containerd writes it.
        {"HostPort": 8080, "ContainerPort": 81, "Protocol": "udp", "HostIP": ""},
        {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "127.0.0.1"},
        {"hostPort": 9, "containerPort": 9, "protocol": "sctp", "hostIP": "::"},
        {"hostPort": 7, "containerPort": 7, "hostIP": "fd00::1"},
        {"hostPort": 0, "containerPort": 6},
        {"containerPort": 5},
    ]));
    let port = |host_ip: [u8; 4], host_port, container_port, protocol| HostPort {
        host_ip: host_ip.into(),
        host_port,
        container_port,
        protocol,
    };
    let expected = [
        port([0; 4], 9, 9, Protocol::Sctp),
        port([0; 4], 8080, 80, Protocol::Tcp),
        port([0; 4], 8080, 81, Protocol::Udp),
        port([127, 0, 0, 1], 53, 5353, Protocol::Udp),
    ];
    assert_eq!(ports.unwrap(), expected);
    assert_eq!(of(json!(null)).unwrap(), []);

    for (mappings, word) in [
        (json!([{"hostPort": 8080, "containerPort": 0}]), "8080"),
        (json!([{"hostPort": 8080}]), "containerport"),
        (json!([{"hostPort": 65_536, "containerPort": 1}]), "65536"),
        (json!([{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}]), "icmp"),
        (json!([{"hostPort": 1, "containerPort": 1, "hostIP": "10.0.0"}]), "10.0.0"),
        (json!(7), "portMappings"),
    ] {
        // DEL reads the same configuration and must not fail.
        let error = of(mappings.clone()).unwrap_err();
        assert_eq!(error.code, code::INVALID_CONFIG, "{mappings}");
        assert!(error.msg.contains(word), "{mappings}: {}", error.msg);
    }
}

/// The environment of an ADD with one variable replaced.
fn environment(variable: &str, value: &str) -> Result<Environment, CniError> {
    let base = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/c1"),
        ("CNI_IFNAME", "eth0"),
    ];
    Environment::read(|name| {
        let given = (name == variable).then(|| value.to_owned());
        given.or_else(|| base.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    })
}

#[test]
fn an_invalid_variable_is_rejected_by_its_name() {
    for (variable, value) in [
        ("CNI_COMMAND", ""),
        ("CNI_COMMAND", "add"),
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "../c1"),
        ("CNI_CONTAINERID", ".c1"),
        ("CNI_CONTAINERID", "c 1"),
        ("CNI_NETNS", ""),
        ("CNI_IFNAME", ""),
        ("CNI_IFNAME", "eth0/1"),
        ("CNI_IFNAME", "eth0:1"),
        ("CNI_IFNAME", "eth 0"),
        ("CNI_IFNAME", "."),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a-name-too-long-"),
        ("CNI_ARGS", "IgnoreUnknown"),
        ("CNI_ARGS", "K8S_POD_NAME=web 0"),
        ("CNI_ARGS", "Other=a\tb"),
    ] {
        let error = environment(variable, value).unwrap_err();
        assert_eq!(error.code, code::INVALID_ENVIRONMENT, "{variable}={value}");
        assert!(error.msg.contains(variable), "{}", error.msg);
    }
    assert_eq!(environment("CNI_IFNAME", "fifteen-letters").unwrap().ifname.len(), 15);
    assert_eq!(environment("CNI_CONTAINERID", "0_.-Z").unwrap().container_id, "0_.-Z");
}

#[test]
fn verbs_require_the_variables_that_they_use() {
    let read = |verb: &str, present: &[&str]| {
        Environment::read(|name| {
            let value = match name {
                "CNI_COMMAND" => verb,
                "CNI_CONTAINERID" => "c1",
                "CNI_NETNS" => "/run/netns/c1",
                "CNI_IFNAME" => "eth0",
                _ => return None,
            };
            (name == "CNI_COMMAND" || present.contains(&name)).then(|| value.to_owned())
        })
    };
    let all = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"];
    for (verb, expected, required) in [
        ("ADD", Verb::Add, &all[..]),
        ("CHECK", Verb::Check, &all[..]),
        ("DEL", Verb::Del, &["CNI_CONTAINERID", "CNI_IFNAME"][..]),
        ("GC", Verb::Gc, &[]),
        ("STATUS", Verb::Status, &[]),
        ("VERSION", Verb::Version, &[]),
    ] {
        assert_eq!(read(verb, &all).unwrap().verb, expected);
        assert_eq!(read(verb, required).unwrap().verb, expected);
        for missing in required {
            let rest: Vec<&str> = all.into_iter().filter(|name| name != missing).collect();
            let error = read(verb, &rest).unwrap_err();
            assert!(error.msg.contains(missing), "{verb}: {}", error.msg);
        }
    }
}

#[test]
fn the_owner_is_the_pod_or_the_container() {
    let owner = |args: &str| environment("CNI_ARGS", args).unwrap().owner();
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u=1";
    assert_eq!(owner(args), "pod shop/web-0");
    for args in ["", ";", "K8S_POD_NAMESPACE=shop", "K8S_POD_NAME=web-0;K8S_POD_NAMESPACE="] {
        assert_eq!(owner(args), "container c1", "{args}");
    }
}

/// Any JSON, not too deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
        "[0-9]{1,3}(\\.[0-9]{1,3}){0,3}(/[0-9]{1,2})?".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z]{0,12}", inner, 0..4)
                .prop_map(|map| Value::Object(Map::from_iter(map))),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_of_a_field_is_accepted_or_rejected_by_name(value in any_json()) {
        let fields = [
            "cniVersion", "name", "subnet", "mtu", "stateDir", "bpffs", "prevResult",
            "cni.dev/valid-attachments", "runtimeConfig", "unknown",
        ];
        for field in fields {
            if let Err(error) = parse_with(field, value.clone()) {
                let codes = [code::INCOMPATIBLE_VERSION, code::INVALID_CONFIG];
                prop_assert!(codes.contains(&error.code), "{}: {}", field, error.msg);
                let quoted = format!("{field:?}");
                prop_assert!(error.msg.contains(&quoted), "{}: {}", field, error.msg);
            }
        }
        let _ = NetConf::parse(&value.to_string());
        let _ = Version::of_answer(&value.to_string());
    }

    #[test]
    fn any_text_is_read_without_panic(text in ".{0,200}") {
        prop_assert!(NetConf::parse(&text).is_err());
        for variable in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"] {
            if let Err(error) = environment(variable, &text) {
                prop_assert_eq!(error.code, code::INVALID_ENVIRONMENT);
                prop_assert!(error.msg.contains(variable), "{}", error.msg);
            }
        }
    }
}
