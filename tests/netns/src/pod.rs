//! Sandboxes and the pods in them.

use std::net::Ipv4Addr;
use std::ops::Deref;
use std::path::PathBuf;

use serde_json::Value;

use crate::{Host, Namespaces};

/// A network namespace that a container runtime has created and that has no interface yet.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Container id, 64 hexadecimal digits.
    pub id: String,
    /// `namespace/name` of the pod.
    pub name: String,
    /// Path of the network namespace inside the node's mounts.
    pub path: PathBuf,
    /// The network namespace.
    pub namespaces: Namespaces,
}

/// A sandbox with an interface.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its sandbox.
    pub sandbox: Sandbox,
    /// Its address.
    pub address: Ipv4Addr,
    /// The result of ADD.
    pub result: Value,
    pub(crate) host: Host,
}

impl Pod {
    /// `address:port`.
    pub fn at(&self, port: u16) -> String {
        format!("{}:{port}", self.address)
    }

    /// Name of the host end of its veth pair.
    pub fn host_device(&self) -> &str {
        self.result["interfaces"]
            .as_array()
            .and_then(|all| all.iter().find(|i| i["sandbox"].as_str().is_none_or(str::is_empty)))
            .and_then(|i| i["name"].as_str())
            .expect("an interface of the host in the result")
    }
}

impl Deref for Pod {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

/// The address in a result of ADD.
#[track_caller]
pub(crate) fn address(result: &Value) -> Ipv4Addr {
    let text = result["ips"][0]["address"].as_str().unwrap_or_else(|| panic!("{result}"));
    text.split('/').next().unwrap().parse().unwrap()
}
