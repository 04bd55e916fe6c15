//! Properties of this node that are not in the API.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// What the agent reads from the node itself and from its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeContext {
    /// Addresses of this node's interfaces to which pods may send packets.
    pub local_addresses: Vec<IpAddr>,
    /// Ranges of ClusterIPs that the configuration names, besides those of ServiceCIDR objects: an
    /// address in one of them that no Service has is not outside the cluster.
    pub service_cidrs: Vec<IpNet>,
    /// The addresses of this node that serve NodePorts.
    pub node_ports: NodePortAddresses,
}

/// Which addresses of this node serve NodePorts. Those in ranges of Services or pods never do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// Every address.
    #[default]
    All,
    /// The first InternalIP of each family.
    Primary,
    /// Addresses in these ranges; every address of a family without a range.
    Ranges(Vec<IpNet>),
}

impl NodePortAddresses {
    /// Whether an address is selected, on a node with these InternalIPs.
    pub fn contains(&self, address: &IpAddr, internal_ips: &[IpAddr]) -> bool {
        let v4 = address.is_ipv4();
        match self {
            NodePortAddresses::All => true,
            NodePortAddresses::Primary => {
                internal_ips.iter().find(|ip| ip.is_ipv4() == v4) == Some(address)
            }
            NodePortAddresses::Ranges(ranges) => {
                let mut family = ranges.iter().filter(|net| net.addr().is_ipv4() == v4).peekable();
                family.peek().is_none() || family.any(|net| net.contains(address))
            }
        }
    }

    /// Whether processes of the node reach NodePorts on their loopback addresses: a range overlaps
    /// with [`LOOPBACK`], or every address is selected.
    pub fn has_loopback(&self) -> bool {
        match self {
            NodePortAddresses::All => true,
            NodePortAddresses::Primary => false,
            NodePortAddresses::Ranges(ranges) => {
                let mut v4 = ranges.iter().filter(|net| net.addr().is_ipv4()).peekable();
                v4.peek().is_none()
                    || v4.any(|net| net.contains(&LOOPBACK) || LOOPBACK.contains(net))
            }
        }
    }
}

/// The loopback addresses of IPv4. Those of IPv6 never serve NodePorts.
pub const LOOPBACK: IpNet =
    IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8));
