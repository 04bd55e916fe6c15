//! One lease: an attachment's address and its number among the pods of this node.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::BootInstant;
use crate::HostPort;

/// Key of one attachment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseKey {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// An address in use by an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Number of the pod on this node, below [`INDEX_MAX`](super::INDEX_MAX). No other lease has it.
    pub index: u32,
    /// Not zero. The leases that have one index after each other count in it.
    pub generation: u32,
    /// The attachment.
    #[serde(flatten)]
    pub key: LeaseKey,
    /// Name of the CNI network.
    pub network: String,
    /// `K8S_POD_NAMESPACE`, if the runtime gave one.
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`, if the runtime gave one.
    pub pod_name: Option<String>,
    /// `K8S_POD_UID`, which differs between two Pods of the same name; `None` as for the hostPorts,
    /// and if the runtime gave none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Path of the pod's network namespace; empty in a rebuilt lease.
    pub netns: String,
    /// Name of the host's end of the veth pair.
    pub host_ifname: String,
    /// Time of allocation.
    pub since: BootInstant,
    /// hostPorts of the pod; `None` in a rebuilt lease and in that of a former version, where they
    /// are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ports: Option<Vec<HostPort>>,
    /// Cookie of the pod's network namespace; `None` as for the hostPorts, and on kernels without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_cookie: Option<u64>,
}

impl Lease {
    /// The generation in the rows of maps: 16 bits, of which 0 means "no pod". It repeats after 65,535
    /// leases of one index.
    pub fn row_generation(&self) -> u16 {
        (self.generation % u32::from(u16::MAX)) as u16 + 1
    }

    /// Parses the content of a lease file.
    ///
    /// # Errors
    /// The bytes are not the JSON of a lease.
    pub fn from_json(bytes: &[u8]) -> serde_json::Result<Lease> {
        serde_json::from_slice(bytes)
    }

    /// `namespace/name` of the pod, or the container id if the pod is unknown.
    pub fn owner(&self) -> String {
        match (&self.pod_namespace, &self.pod_name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => format!("container {}", self.key.container_id),
        }
    }
}
