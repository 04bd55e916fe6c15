//! Networks: the class of a destination address, and the route to another node's pod.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{Node, NodeContext, Object};

/// Class of a destination address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DestinationClass {
    /// An address of this node.
    ThisNode,
    /// In a pod range of this node.
    LocalPods,
    /// An address of another node.
    OtherNode,
    /// In a pod range of another node.
    RemotePods,
    /// In a range of ClusterIPs: of a ServiceCIDR object, or configured.
    Services,
    /// Outside the cluster.
    Outside,
}

/// The class of an address as seen from the node called `node`: the longest prefix that contains
/// it, and among equal prefixes the first class in the order of [`DestinationClass`]. A pod range of
/// this node precedes the parts of it that other nodes have, and any pod range the ranges of Services in
/// it.
pub fn network(
    objects: &[Object],
    node: &str,
    context: &NodeContext,
    address: IpAddr,
) -> DestinationClass {
    use DestinationClass::{LocalPods, OtherNode, Outside, RemotePods, Services, ThisNode};
    let mut candidates: Vec<(IpNet, DestinationClass)> = Vec::new();
    candidates.extend(context.local_addresses.iter().map(|a| (IpNet::from(*a), ThisNode)));
    candidates.extend(context.service_cidrs.iter().map(|net| (*net, Services)));
    for object in objects {
        if let Object::ServiceCidr(o) = object {
            candidates.extend(o.cidrs.iter().map(|net| (*net, Services)));
        }
    }
    for n in nodes(objects) {
        let own = n.name == node;
        let pods = if own { LocalPods } else { RemotePods };
        candidates.extend(n.pod_cidrs.iter().map(|net| (*net, pods)));
        // The addresses of this node are those of its interfaces, not those in the API.
        let addresses = n.internal_ips.iter().filter(|_| !own);
        candidates.extend(addresses.map(|a| (IpNet::from(*a), OtherNode)));
    }
    candidates.retain(|(net, _)| net.contains(&address));
    let own: Vec<IpNet> =
        candidates.iter().filter(|(_, class)| *class == LocalPods).map(|(net, _)| *net).collect();
    candidates.retain(|(net, class)| *class != RemotePods || !own.iter().any(|o| o.contains(net)));
    let pods = candidates.iter().filter(|(_, class)| matches!(class, LocalPods | RemotePods));
    let pods: Vec<IpNet> = pods.map(|(net, _)| *net).collect();
    candidates.retain(|(net, class)| *class != Services || !pods.iter().any(|p| p.contains(net)));
    candidates.sort_by_key(|(net, class)| (u8::MAX - net.prefix_len(), *class));
    candidates.first().map_or(Outside, |(_, class)| *class)
}

/// The next hop of a packet for another node's pod: an InternalIP of that node. `None` for addresses
/// that are not in another node's pod range, or are in this node's.
pub fn route(objects: &[Object], node: &str, address: IpAddr) -> Option<IpAddr> {
    let holds = |n: &Node| n.pod_cidrs.iter().any(|net| net.contains(&address));
    if nodes(objects).any(|n| n.name == node && holds(n)) {
        return None;
    }
    let mut others: Vec<&Node> = nodes(objects).filter(|n| n.name != node).collect();
    others.sort_by_key(|n| n.name.clone());
    let mut ranges: Vec<(IpNet, IpAddr)> = Vec::new();
    for n in others {
        let same_family = |a: &&IpAddr| a.is_ipv4() == address.is_ipv4();
        if let Some(hop) = n.internal_ips.iter().find(same_family) {
            ranges.extend(n.pod_cidrs.iter().map(|net| (*net, *hop)));
        }
    }
    ranges.retain(|(net, _)| net.contains(&address));
    // The sort is stable: among equals, the first node by name remains.
    ranges.sort_by_key(|(net, _)| u8::MAX - net.prefix_len());
    ranges.first().map(|(_, hop)| *hop)
}

fn nodes(objects: &[Object]) -> impl Iterator<Item = &Node> {
    objects.iter().filter_map(|o| if let Object::Node(n) = o { Some(n) } else { None })
}
