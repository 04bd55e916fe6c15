//! The lease file of versions before one file per lease: `leases.json` with all leases, without
//! numbers. It is read once, after an upgrade with running pods.

use std::net::Ipv4Addr;

use serde::Deserialize;

use super::{Allocation, BootInstant, Draft, Lease, LeaseKey, Released, Subnet};

/// The content of `leases.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct FormerState {
    subnet: Option<Subnet>,
    cursor: Option<Ipv4Addr>,
    leases: Vec<FormerLease>,
    released: Vec<FormerReleased>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FormerLease {
    address: Ipv4Addr,
    #[serde(flatten)]
    key: LeaseKey,
    network: String,
    pod_namespace: Option<String>,
    pod_name: Option<String>,
    netns: String,
    host_ifname: String,
    since: BootInstant,
}

#[derive(Clone, Debug, Deserialize)]
struct FormerReleased {
    address: Ipv4Addr,
    at: BootInstant,
}

impl FormerState {
    /// Parses `leases.json`.
    ///
    /// # Errors
    /// The bytes are not such a file.
    pub fn from_json(bytes: &[u8]) -> serde_json::Result<FormerState> {
        serde_json::from_slice(bytes)
    }

    /// Its leases, without numbers.
    pub fn drafts(&self) -> Vec<Draft> {
        let draft = |former: &FormerLease| {
            let FormerLease { address, key, network, pod_namespace, pod_name, netns, .. } =
                former.clone();
            let lease = Lease {
                address,
                index: 0,
                generation: 0,
                key,
                network,
                pod_namespace,
                pod_name,
                pod_uid: None,
                netns,
                host_ifname: former.host_ifname.clone(),
                since: former.since.clone(),
                host_ports: None,
                netns_cookie: None,
            };
            Draft { lease, number: None }
        };
        self.leases.iter().map(draft).collect()
    }

    /// Its range, cursor and released addresses.
    pub fn allocation(&self) -> Allocation {
        let boot_id = self.released.last().map(|r| r.at.boot_id.clone()).unwrap_or_default();
        let released = self.released.iter().map(|r| Released {
            address: r.address,
            at: (r.at.boot_id == boot_id).then_some(r.at.seconds),
        });
        Allocation {
            subnet: self.subnet,
            cursor: self.cursor,
            released: released.collect(),
            boot_id,
        }
    }
}
