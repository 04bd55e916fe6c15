//! The network configuration on stdin.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use sluice_abi::pin;

use super::error::{CniError, code};
use super::request::is_identifier;
use super::version::Version;
use sluice_pod::lease::{Store, Subnet};

/// An attachment that GC must spare (`cni.dev/valid-attachments`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Attachment {
    /// Container id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Interface name.
    pub ifname: String,
}

/// A checked configuration. Unknown fields are ignored, as the specification wants.
#[derive(Clone, Debug)]
pub struct NetConf {
    /// `cniVersion`.
    pub version: Version,
    /// `name` of the network.
    pub name: String,
    /// `subnet`: the node's pod range. ADD needs it.
    pub subnet: Option<Subnet>,
    /// `mtu`, bytes; absent: that of the uplink.
    pub mtu: Option<u32>,
    /// `stateDir`.
    pub state_dir: PathBuf,
    /// `bpffs`: folder with `maps` and `programs`.
    pub pins: PathBuf,
    /// `prevResult`, unread.
    pub prev_result: Option<Value>,
    /// `cni.dev/valid-attachments`.
    pub valid_attachments: Option<Vec<Attachment>>,
    /// `runtimeConfig.bandwidth.egressRate` is set: the runtime tells this to a plugin that
    /// declares `"capabilities": {"bandwidth": true}`, and the bandwidth plugin, later in the
    /// list, will act on it.
    pub limits_egress: bool,
}

fn invalid(field: &str, why: impl std::fmt::Display) -> CniError {
    CniError::new(code::INVALID_CONFIG, format!("network configuration field {field:?}: {why}"))
}

impl NetConf {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// Code 6 for what is no JSON object, 1 for a version we don't speak, 7 naming the field for
    /// the rest.
    pub fn parse(text: &str) -> Result<NetConf, CniError> {
        let json: Value = serde_json::from_str(text).map_err(|e| {
            CniError::caused(code::DECODE, "the network configuration on stdin is no JSON", &e)
        })?;
        let Some(object) = json.as_object() else {
            let msg = "the network configuration on stdin is no JSON object";
            return Err(CniError::new(code::DECODE, msg));
        };
        let string = |field: &str| match object.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(other) => Err(invalid(field, format!("{other} is no string"))),
        };
        let version = string("cniVersion")?.unwrap_or("0.1.0");
        let version = Version::parse(version).ok_or_else(|| {
            let known = Version::ALL.map(Version::text).join(", ");
            CniError::new(
                code::INCOMPATIBLE_VERSION,
                format!("configuration has cniVersion {version:?}; sluice speaks {known}"),
            )
        })?;
        let name = string("name")?.ok_or_else(|| invalid("name", "is missing"))?;
        if !is_identifier(name) {
            let why = "must begin with a letter or digit and hold only letters, digits and _ . -";
            return Err(invalid("name", why));
        }
        let subnet = string("subnet")?
            .map(|text| text.parse::<Subnet>().map_err(|e| invalid("subnet", e)))
            .transpose()?;
        let mtu = match object.get("mtu") {
            None | Some(Value::Null) => None,
            // 68 is IPv4's least (RFC 791), 65535 what an interface can be told.
            Some(value) => match value.as_u64() {
                Some(0) => None,
                Some(mtu @ 68..=65_535) => Some(mtu as u32),
                _ => return Err(invalid("mtu", format!("{value} is not between 68 and 65535"))),
            },
        };
        let path = |field: &str, default: &str| {
            let path = PathBuf::from(string(field)?.unwrap_or(default));
            match path.is_absolute() {
                true => Ok(path),
                false => Err(invalid(field, "is no absolute path")),
            }
        };
        let valid_attachments = object
            .get("cni.dev/valid-attachments")
            .map(|list| {
                Vec::<Attachment>::deserialize(list)
                    .map_err(|e| invalid("cni.dev/valid-attachments", e))
            })
            .transpose()?;
        Ok(NetConf {
            version,
            name: name.to_owned(),
            subnet,
            mtu,
            state_dir: path("stateDir", Store::DEFAULT_DIR)?,
            pins: path("bpffs", pin::ROOT)?,
            prev_result: object.get("prevResult").filter(|v| !v.is_null()).cloned(),
            valid_attachments,
            limits_egress: json["runtimeConfig"]["bandwidth"]["egressRate"]
                .as_u64()
                .is_some_and(|rate| rate > 0),
        })
    }

    /// The node's pod range.
    ///
    /// # Errors
    /// Code 7 if the configuration has none.
    pub fn subnet(&self) -> Result<Subnet, CniError> {
        self.subnet.ok_or_else(|| invalid("subnet", "is missing"))
    }
}
