//! The result object of ADD, in each version of the specification.

use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};
use sluice_pod::device::{Mac, mac_text};

use super::version::Version;

/// A network device that ADD created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Hardware address.
    pub mac: Mac,
    /// MTU, bytes.
    pub mtu: u32,
    /// Path of the pod's network namespace; `None` for a device of the host.
    pub sandbox: Option<String>,
}

/// An address of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpConfig {
    /// Index in [`CniResult::interfaces`].
    pub interface: usize,
    /// The address.
    pub address: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
    /// The pod's gateway.
    pub gateway: Ipv4Addr,
}

/// A route inside the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// Destination network.
    pub dst: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
    /// Next hop; `None` for a destination on the link.
    pub gateway: Option<Ipv4Addr>,
}

/// The result of ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniResult {
    /// Devices, the host's end first.
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<IpConfig>,
    /// Routes inside the pod.
    pub routes: Vec<RouteConfig>,
}

impl CniResult {
    /// The result object of `version`.
    pub fn to_json(&self, version: Version) -> Value {
        let interfaces: Vec<Value> = self.interfaces.iter().map(|i| i.to_json(version)).collect();
        let ips: Vec<Value> = self.ips.iter().map(|ip| ip.to_json(version)).collect();
        let routes: Vec<Value> = self.routes.iter().map(RouteConfig::to_json).collect();
        json!({
            "cniVersion": version.text(),
            "interfaces": interfaces,
            "ips": ips,
            "routes": routes,
            "dns": {},
        })
    }
}

impl Interface {
    fn to_json(&self, version: Version) -> Value {
        let mut object = Map::new();
        object.insert("name".into(), json!(self.name));
        object.insert("mac".into(), json!(mac_text(self.mac)));
        if version >= Version::V1_1_0 {
            object.insert("mtu".into(), json!(self.mtu));
        }
        if let Some(sandbox) = &self.sandbox {
            object.insert("sandbox".into(), json!(sandbox));
        }
        Value::Object(object)
    }
}

impl IpConfig {
    fn to_json(&self, version: Version) -> Value {
        let mut object = Map::new();
        if version < Version::V1_0_0 {
            object.insert("version".into(), json!("4"));
        }
        object.insert("interface".into(), json!(self.interface));
        object.insert("address".into(), json!(format!("{}/{}", self.address, self.prefix)));
        object.insert("gateway".into(), json!(self.gateway.to_string()));
        Value::Object(object)
    }
}

impl RouteConfig {
    fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("dst".into(), json!(format!("{}/{}", self.dst, self.prefix)));
        if let Some(gateway) = self.gateway {
            object.insert("gw".into(), json!(gateway.to_string()));
        }
        Value::Object(object)
    }
}
