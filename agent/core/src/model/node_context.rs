//! Properties of this node that are not in the API.

use std::net::IpAddr;

use ipnet::IpNet;

/// What the agent reads from the node itself and from its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeContext {
    /// Addresses of this node's interfaces to which pods may send packets.
    pub local_addresses: Vec<IpAddr>,
    /// Ranges of ClusterIPs that the configuration names, besides those of ServiceCIDR objects: an
    /// address in one of them that no Service has is not outside the cluster.
    pub service_cidrs: Vec<IpNet>,
}
