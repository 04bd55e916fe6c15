//! The network configuration on the standard input of the CNI binary.
//!
//! A configuration that parses has values within their limits, and is unchanged by an unknown
//! field; so have its hostPorts. An error has a code of the specification and names a field.

use serde_json::{Value, json};
use sluice_cni::spec::{NetConf, Version, code};

const FIELDS: [&str; 7] =
    ["cniVersion", "name", "subnet", "mtu", "stateDir", "bpffs", "cni.dev/valid-attachments"];

pub(super) fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let version = Version::of_answer(text);
    match NetConf::parse(text) {
        Ok(conf) => {
            assert_eq!(conf.version, version);
            check(&conf);
            let mut json: Value = serde_json::from_str(text).unwrap();
            json["org.example.unknown"] = Value::from(data.len());
            let again = NetConf::parse(&json.to_string()).expect("unknown fields are ignored");
            assert_eq!(format!("{again:?}"), format!("{conf:?}"));
        }
        Err(e) => {
            let about_field = FIELDS
                .iter()
                .any(|f| e.msg.starts_with(&format!("network configuration field {f:?}: ")));
            match e.code {
                code::DECODE => assert!(e.msg.starts_with("network configuration on stdin")),
                code::INCOMPATIBLE_VERSION => assert!(e.msg.contains("\"cniVersion\"")),
                code::INVALID_CONFIG => assert!(about_field, "{e:?}"),
                _ => panic!("{e:?}"),
            }
            let answer = e.to_json(version);
            assert_eq!(answer["cniVersion"], version.text());
            assert_eq!(answer["code"], e.code);
        }
    }
}

fn check(conf: &NetConf) {
    assert!(conf.name.starts_with(|c: char| c.is_ascii_alphanumeric()));
    assert!(conf.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)));
    assert!(conf.mtu.is_none_or(|mtu| (68..=65_535).contains(&mtu)));
    assert!(conf.state_dir.is_absolute() && conf.pins.is_absolute());
    match conf.subnet() {
        Ok(subnet) => assert_eq!(subnet.to_string().parse(), Ok(subnet)),
        Err(e) => assert!(e.msg.contains("\"subnet\"")),
    }
    if let Err(e) = conf.prev_result() {
        assert!(e.msg.contains("\"prevResult\""));
    }
    if let Err(e) = conf.valid_attachments() {
        assert!(e.msg.contains("\"cni.dev/valid-attachments\""));
    }
    check_host_ports(conf);
}

/// The hostPorts have ports, occur once, and are those of a configuration that is written from them.
fn check_host_ports(conf: &NetConf) {
    let ports = match conf.host_ports() {
        Ok(ports) => ports,
        Err(e) => {
            assert_eq!(e.code, code::INVALID_CONFIG);
            let field = "network configuration field \"runtimeConfig.portMappings\": ";
            assert!(e.msg.starts_with(field), "{e:?}");
            return;
        }
    };
    assert!(ports.iter().all(|port| port.host_port != 0 && port.container_port != 0), "{ports:?}");
    assert!(ports.is_sorted_by(|a, b| a < b), "{ports:?}");
    let written = json!({
        "cniVersion": "1.0.0", "name": "again", "type": "sluice",
        "runtimeConfig": {"portMappings": &ports},
    });
    let again = NetConf::parse(&written.to_string()).and_then(|conf| conf.host_ports());
    assert_eq!(again.expect("hostPorts in their own form"), ports);
}
