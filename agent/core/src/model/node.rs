//! Nodes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Labels;

/// A core/v1 Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Addresses of type InternalIP, in the order of the API.
    pub internal_ips: Vec<IpAddr>,
    /// Addresses of type ExternalIP, in the order of the API.
    pub external_ips: Vec<IpAddr>,
    /// `podCIDRs`, or `podCIDR` if only that is set.
    pub pod_cidrs: Vec<IpNet>,
    /// All labels.
    pub labels: Labels,
    /// Value of [`super::ZONE_LABEL`]; an empty label means none.
    pub zone: Option<String>,
    /// Whether the node is about to be removed: it is being deleted, or has the taint
    /// `ToBeDeletedByClusterAutoscaler`. Load balancers stop sending to it.
    pub leaving: bool,
}

impl Node {
    /// InternalIP and ExternalIP addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.internal_ips.iter().chain(&self.external_ips).copied()
    }
}
