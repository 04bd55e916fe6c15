//! Properties of this node that are not in the API.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

    /// Whether every address of the family of `address` is selected, whatever the node has.
    pub fn has_family_of(&self, address: &IpAddr) -> bool {
        match self {
            NodePortAddresses::All => true,
            NodePortAddresses::Primary => false,
            NodePortAddresses::Ranges(ranges) => {
                let same = |net: &&IpNet| net.addr().is_ipv4() == address.is_ipv4();
                let mut family = ranges.iter().filter(same).peekable();
                family.peek().is_none() || family.any(|net| net.prefix_len() == 0)
            }
        }
    }

    /// Where the servers of healthCheckNodePorts listen, as those of kube-proxy: at the unspecified address
    /// of a family of which every address is selected, else at the addresses that are. `serving` are those
    /// of the node that serve NodePorts; the loopback address is added if a range contains it. IPv6
    /// link-local addresses are left out, because a listener would need the device.
    pub fn listen_at(&self, serving: impl Iterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
        let families: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let has_loopback = |address: &IpAddr| match self {
            NodePortAddresses::Ranges(ranges) => ranges.iter().any(|net| net.contains(address)),
            NodePortAddresses::All | NodePortAddresses::Primary => false,
        };
        let is_bindable = |address: &IpAddr| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        };
        let single = serving.filter(is_bindable).chain(loopback.into_iter().filter(has_loopback));
        let single = single.filter(|address| !self.has_family_of(address));
        single.chain(families.into_iter().filter(|any| self.has_family_of(any))).collect()
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
pub const LOOPBACK: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));

#[cfg(test)]
mod tests {
    use super::*;

    fn listen_at(selected: &NodePortAddresses, serving: &[&str]) -> Vec<String> {
        let serving = serving.iter().map(|a| a.parse().expect("address"));
        selected.listen_at(serving).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn health_checks_listen_at_the_unspecified_address_or_at_those_selected() {
        let ranges = |nets: &[&str]| {
            NodePortAddresses::Ranges(nets.iter().map(|n| n.parse().expect("range")).collect())
        };
        let serving = ["172.18.0.2", "fc00::2", "fe80::1"];
        assert_eq!(listen_at(&NodePortAddresses::All, &serving), ["0.0.0.0", "::"]);
        assert_eq!(listen_at(&NodePortAddresses::Primary, &serving), ["172.18.0.2", "fc00::2"]);
        assert_eq!(listen_at(&NodePortAddresses::Primary, &[]), [""; 0]);
        // A family without a range, or with one of length 0, is selected as a whole.
        let v4 = ranges(&["172.18.0.0/16", "127.0.0.0/8"]);
        assert_eq!(listen_at(&v4, &serving), ["127.0.0.1", "172.18.0.2", "::"]);
        let v6 = ranges(&["0.0.0.0/0", "10.0.0.0/8", "::1/128", "fe80::/10"]);
        assert_eq!(listen_at(&v6, &["172.18.0.2", "fe80::1"]), ["0.0.0.0", "::1"]);
    }
}
