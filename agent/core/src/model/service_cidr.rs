//! Ranges of ClusterIPs.

use ipnet::IpNet;

/// A networking.k8s.io/v1 ServiceCIDR. Its ranges count as long as the object exists, also while it
/// is being deleted: Services can still have addresses in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Name.
    pub name: String,
    /// `spec.cidrs`: one range per family, without host bits.
    pub cidrs: Box<[IpNet]>,
}
