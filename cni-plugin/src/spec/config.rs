//! The network configuration on stdin.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};
use sluice_abi::pin;
use sluice_pod::lease::Subnet;
use sluice_pod::{DEFAULT_STATE_DIR, HostPort, Protocol};

use super::error::{CniError, code};
use super::request::{IDENTIFIER_RULE, is_identifier};
use super::version::Version;

const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";

/// An attachment that GC keeps (`cni.dev/valid-attachments`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Attachment {
    /// Container id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Interface name.
    pub ifname: String,
}

/// A validated configuration. Unknown fields are ignored, as the specification requires.
#[derive(Clone, Debug)]
pub struct NetConf {
    /// `cniVersion`.
    pub version: Version,
    /// `name` of the network.
    pub name: String,
    /// `subnet`: the node's pod range. ADD and STATUS require it.
    pub subnet: Option<Subnet>,
    /// `mtu` in bytes; `None` for that of the uplink.
    pub mtu: Option<u32>,
    /// `stateDir`.
    pub state_dir: PathBuf,
    /// `bpffs`: folder with `maps` and `programs`.
    pub pins: PathBuf,
    /// `prevResult`, as it was given.
    pub prev_result: Option<Value>,
    /// `cni.dev/valid-attachments`: what GC keeps.
    pub valid_attachments: Option<Vec<Attachment>>,
    /// Whether `runtimeConfig.bandwidth.egressRate` is set: the bandwidth plugin, later in the list,
    /// will limit what the pod sends. The runtime passes it to plugins that declare
    /// `"capabilities": {"bandwidth": true}`.
    pub limits_egress: bool,
    /// `runtimeConfig.portMappings`, as it was given: only ADD requires that it is valid.
    port_mappings: Value,
}

impl NetConf {
    /// Parses and validates a configuration.
    ///
    /// # Errors
    /// Code 6 if it is not a JSON object, 1 for an unknown version, 7 with the name of the field
    /// otherwise.
    pub fn parse(text: &str) -> Result<NetConf, CniError> {
        let json: Value = serde_json::from_str(text).map_err(|e| {
            CniError::caused(code::DECODE, "network configuration on stdin is not valid JSON", &e)
        })?;
        let Some(object) = json.as_object() else {
            let msg = "network configuration on stdin is not a JSON object";
            return Err(CniError::new(code::DECODE, msg));
        };
        let fields = Fields(object);
        let runtime_config = json.get("runtimeConfig").map(lower_case).unwrap_or_default();
        let egress_rate = &runtime_config["bandwidth"]["egressrate"];
        Ok(NetConf {
            version: fields.version()?,
            name: fields.name()?.to_owned(),
            subnet: fields
                .string("subnet")?
                .map(|text| text.parse().map_err(|e| invalid("subnet", e)))
                .transpose()?,
            mtu: fields.mtu()?,
            state_dir: fields.path("stateDir", DEFAULT_STATE_DIR)?,
            pins: fields.path("bpffs", pin::ROOT)?,
            prev_result: fields.get("prevResult").cloned(),
            valid_attachments: object
                .get(VALID_ATTACHMENTS)
                .map(Vec::deserialize)
                .transpose()
                .map_err(|e| invalid(VALID_ATTACHMENTS, e))?,
            limits_egress: egress_rate.as_u64().is_some_and(|rate| rate > 0),
            port_mappings: runtime_config["portmappings"].clone(),
        })
    }

    /// The hostPorts of the pod (`runtimeConfig.portMappings`). The runtime passes them to plugins that
    /// declare `"capabilities": {"portMappings": true}`. Mappings without a host port, and those of IPv6
    /// addresses, which pods do not have, are left out.
    ///
    /// # Errors
    /// Code 7 with the mapping.
    pub fn host_ports(&self) -> Result<Vec<HostPort>, CniError> {
        port_mappings(&self.port_mappings)
    }

    /// The result of ADD, which CHECK requires.
    ///
    /// # Errors
    /// Code 7 if it is missing.
    pub fn prev_result(&self) -> Result<&Value, CniError> {
        let missing = || invalid("prevResult", "is missing; CHECK requires the result of ADD");
        self.prev_result.as_ref().ok_or_else(missing)
    }

    /// The attachments that GC keeps. GC requires the list: an empty default would detach every pod
    /// of the node.
    ///
    /// # Errors
    /// Code 7 if it is missing.
    pub fn valid_attachments(&self) -> Result<&[Attachment], CniError> {
        let missing = || invalid(VALID_ATTACHMENTS, "is missing; GC requires it");
        self.valid_attachments.as_deref().ok_or_else(missing)
    }

    /// The node's pod range.
    ///
    /// # Errors
    /// Code 7 if it is missing.
    pub fn subnet(&self) -> Result<Subnet, CniError> {
        let why = "is missing; it must be the pod range of the node, such as 10.244.1.0/24";
        self.subnet.ok_or_else(|| invalid("subnet", why))
    }
}

/// The value with the names of all members in lower case. The conventions for capabilities write
/// `hostPort`, containerd `HostPort`; plugins in Go accept either.
fn lower_case(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let lower =
                |(name, value): (&String, &Value)| (name.to_ascii_lowercase(), lower_case(value));
            Value::Object(members.iter().map(lower).collect())
        }
        Value::Array(elements) => elements.iter().map(lower_case).collect(),
        other => other.clone(),
    }
}

/// An element of `portMappings`, as the convention of the capability defines it, by [`lower_case`].
#[derive(Deserialize)]
struct PortMapping {
    #[serde(default, rename = "hostport")]
    host_port: u16,
    #[serde(rename = "containerport")]
    container_port: u16,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostip")]
    host_ip: String,
}

fn port_mappings(value: &Value) -> Result<Vec<HostPort>, CniError> {
    const FIELD: &str = "runtimeConfig.portMappings";
    if value.is_null() {
        return Ok(Vec::new());
    }
    let mappings = Vec::<PortMapping>::deserialize(value).map_err(|e| invalid(FIELD, e))?;
    let mut ports = Vec::new();
    for PortMapping { host_port, container_port, protocol, host_ip } in mappings {
        if host_port == 0 {
            continue;
        }
        if container_port == 0 {
            return Err(invalid(FIELD, format!("hostPort {host_port} has containerPort 0")));
        }
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "" => Protocol::Tcp,
            name => Protocol::from_name(name).ok_or_else(|| {
                let why = format!("hostPort {host_port} has the unknown protocol {name:?}");
                invalid(FIELD, why)
            })?,
        };
        let host_ip = match host_ip.as_str() {
            "" => Ipv4Addr::UNSPECIFIED,
            text => match text.parse() {
                Ok(IpAddr::V4(addr)) => addr,
                // All addresses, of both families.
                Ok(IpAddr::V6(addr)) if addr.is_unspecified() => Ipv4Addr::UNSPECIFIED,
                Ok(IpAddr::V6(_)) => continue,
                Err(e) => return Err(invalid(FIELD, format!("hostIP {text:?}: {e}"))),
            },
        };
        ports.push(HostPort { host_ip, host_port, container_port, protocol });
    }
    ports.sort();
    ports.dedup();
    Ok(ports)
}

/// The members of the configuration object.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// A member; `None` if it is missing or null.
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn string(&self, field: &str) -> Result<Option<&'a str>, CniError> {
        self.get(field)
            .map(|value| {
                value.as_str().ok_or_else(|| invalid(field, format!("{value} is not a string")))
            })
            .transpose()
    }

    fn version(&self) -> Result<Version, CniError> {
        // Configurations without a version follow 0.1.0.
        let version = self.string("cniVersion")?.unwrap_or("0.1.0");
        Version::parse(version).ok_or_else(|| {
            let supported = Version::ALL.map(Version::text).join(", ");
            let why = format!("{version:?} is not supported; use one of {supported}");
            CniError { code: code::INCOMPATIBLE_VERSION, ..invalid("cniVersion", why) }
        })
    }

    fn name(&self) -> Result<&'a str, CniError> {
        let name = self.string("name")?.ok_or_else(|| invalid("name", "is missing"))?;
        match is_identifier(name) {
            true => Ok(name),
            false => Err(invalid("name", format!("{name:?} {IDENTIFIER_RULE}"))),
        }
    }

    fn mtu(&self) -> Result<Option<u32>, CniError> {
        let Some(value) = self.get("mtu") else { return Ok(None) };
        // The minimum of IPv4 (RFC 791) and the maximum of a device. 0 means unset.
        match value.as_u64() {
            Some(0) => Ok(None),
            Some(mtu @ 68..=65_535) => Ok(Some(mtu as u32)),
            _ => Err(invalid("mtu", format!("{value} is not a number between 68 and 65535"))),
        }
    }

    fn path(&self, field: &str, default: &str) -> Result<PathBuf, CniError> {
        let text = self.string(field)?.unwrap_or(default);
        let path = PathBuf::from(text);
        match path.is_absolute() {
            true => Ok(path),
            false => Err(invalid(field, format!("{text:?} is not an absolute path"))),
        }
    }
}

fn invalid(field: &str, why: impl fmt::Display) -> CniError {
    CniError::new(code::INVALID_CONFIG, format!("network configuration field {field:?}: {why}"))
}
