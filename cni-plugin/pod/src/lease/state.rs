//! Leases and released addresses: the content of the lease file.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{BootInstant, Subnet};

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
    /// The attachment.
    #[serde(flatten)]
    pub key: LeaseKey,
    /// Name of the CNI network.
    pub network: String,
    /// `K8S_POD_NAMESPACE`, if the runtime gave one.
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`, if the runtime gave one.
    pub pod_name: Option<String>,
    /// Path of the pod's network namespace; empty in a rebuilt lease.
    pub netns: String,
    /// Name of the host's end of the veth pair.
    pub host_ifname: String,
    /// Time of allocation.
    pub since: BootInstant,
}

impl Lease {
    /// `namespace/name` of the pod, or the container id if the pod is unknown.
    pub fn owner(&self) -> String {
        match (&self.pod_namespace, &self.pod_name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => format!("container {}", self.key.container_id),
        }
    }
}

/// A released address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// The address.
    pub address: Ipv4Addr,
    /// Time of release.
    pub at: BootInstant,
}

/// The content of the lease file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Range of the last allocation.
    pub subnet: Option<Subnet>,
    /// Address of the last allocation.
    pub cursor: Option<Ipv4Addr>,
    /// Addresses in use. Those of an earlier range stay until their pods are deleted.
    pub leases: Vec<Lease>,
    /// Released addresses, in the order of their release.
    pub released: Vec<Released>,
}

impl State {
    /// Parses the content of a lease file.
    ///
    /// # Errors
    /// The bytes are not the JSON of a state.
    pub fn from_json(bytes: &[u8]) -> serde_json::Result<State> {
        serde_json::from_slice(bytes)
    }

    /// The lease of an attachment.
    pub fn find(&self, key: &LeaseKey) -> Option<&Lease> {
        self.leases.iter().find(|lease| lease.key == *key)
    }

    /// Ends an attachment's lease; the reuse delay of its address begins.
    pub fn release(&mut self, key: &LeaseKey, now: &BootInstant) -> Option<Lease> {
        let at = self.leases.iter().position(|lease| lease.key == *key)?;
        let lease = self.leases.remove(at);
        self.released.retain(|r| r.address != lease.address);
        self.released.push(Released { address: lease.address, at: now.clone() });
        Some(lease)
    }

    /// Ends every lease that is not live; returns them.
    pub fn reclaim(&mut self, now: &BootInstant, live: impl Fn(&Lease) -> bool) -> Vec<Lease> {
        let dead: Vec<LeaseKey> =
            self.leases.iter().filter(|l| !live(l)).map(|l| l.key.clone()).collect();
        dead.iter().filter_map(|key| self.release(key, now)).collect()
    }
}
