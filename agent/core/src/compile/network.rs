//! Nodes -> destination class of each address range, and routes to the pods of other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use sluice_abi::{Network, NetworkKey, network_kind};

use crate::model::{LOOPBACK, Node, NodeContext};

/// Rows of the `NETWORKS` trie. Addresses of this node that are in a range of Services or pods serve no
/// NodePorts: a NodePort never takes a port of a ClusterIP. If several sources name the same prefix, the first of these applies:
/// this node's addresses, this node's pods, other nodes' addresses, other nodes' pods, Services.
/// Other nodes' ranges within this node's pod ranges have no row, and ranges of Services within pod
/// ranges have none: they would hide pods ([`overlaps`]).
pub fn networks<'a>(
    this_node: &str,
    nodes: impl IntoIterator<Item = &'a Node>,
    service_cidrs: impl IntoIterator<Item = &'a IpNet>,
    context: &'a NodeContext,
) -> BTreeMap<NetworkKey, Network> {
    let service_cidrs: Vec<&IpNet> =
        service_cidrs.into_iter().chain(&context.service_cidrs).collect();
    let mut rows = BTreeMap::new();
    let mut put = |net: IpNet, kind: u32| {
        rows.entry(network_key(net)).or_insert(Network { kind });
    };
    let (own, others): (Vec<&Node>, Vec<&Node>) =
        nodes.into_iter().partition(|n| n.name == this_node);
    let internal_ips = own.first().map_or(&[][..], |n| &n.internal_ips);
    for address in &context.local_addresses {
        let is_assigned = in_ranges(service_cidrs.iter().copied(), address)
            || in_ranges(own.iter().chain(&others).flat_map(|n| &n.pod_cidrs), address);
        let serves = !is_assigned && context.node_ports.contains(address, internal_ips);
        let without = network_kind::THIS_NODE_WITHOUT_NODE_PORTS;
        put(IpNet::from(*address), if serves { network_kind::THIS_NODE } else { without });
    }
    if !context.node_ports.has_loopback() {
        put(LOOPBACK, network_kind::THIS_NODE_WITHOUT_NODE_PORTS);
    }
    for net in own.iter().flat_map(|n| &n.pod_cidrs) {
        put(*net, network_kind::LOCAL_PODS);
    }
    for address in others.iter().flat_map(|n| &n.internal_ips) {
        put(IpNet::from(*address), network_kind::OTHER_NODE);
    }
    for net in others.iter().flat_map(|n| &n.pod_cidrs).filter(|net| !is_within(&own, net)) {
        put(*net, network_kind::REMOTE_PODS);
    }
    let hides_pods = |net: &IpNet| is_within(&own, net) || is_within(&others, net);
    for net in service_cidrs.into_iter().filter(|net| !hides_pods(net)) {
        put(*net, network_kind::SERVICES);
    }
    rows
}

/// A range of ClusterIPs and pod ranges that have addresses in common. Such addresses are those of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The range of ClusterIPs.
    pub services: IpNet,
    /// The first pod range that overlaps it.
    pub pods: IpNet,
    /// The node that has it.
    pub node: String,
    /// Number of other pod ranges that overlap it.
    pub others: usize,
}

/// The ranges of ClusterIPs that overlap pod ranges, each once.
pub fn overlaps<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    service_cidrs: impl IntoIterator<Item = &'a IpNet>,
    context: &'a NodeContext,
) -> Vec<Overlap> {
    let nodes: Vec<&Node> = nodes.into_iter().collect();
    let services = service_cidrs.into_iter().chain(&context.service_cidrs);
    let services: BTreeSet<IpNet> = services.map(IpNet::trunc).collect();
    let overlap = |services: IpNet| {
        let ranges = nodes.iter().flat_map(|n| n.pod_cidrs.iter().map(move |net| (net, &n.name)));
        let mut found =
            ranges.filter(|(net, _)| net.contains(&services) || services.contains(*net));
        let (pods, node) = found.next()?;
        Some(Overlap { services, pods: *pods, node: node.clone(), others: found.count() })
    };
    services.into_iter().filter_map(overlap).collect()
}

/// Routes to other nodes' pods: range -> the node's first InternalIP of that family. If two nodes
/// have the same range, the route leads to the first by name. Ranges within this node's pod ranges
/// get no route.
pub fn routes<'a>(
    this_node: &str,
    nodes: impl IntoIterator<Item = &'a Node>,
) -> BTreeMap<IpNet, IpAddr> {
    let (own, mut others): (Vec<&Node>, Vec<&Node>) =
        nodes.into_iter().partition(|n| n.name == this_node);
    others.sort_by(|a, b| a.name.cmp(&b.name));
    let mut routes = BTreeMap::new();
    for node in others {
        for net in &node.pod_cidrs {
            let v4 = net.addr().is_ipv4();
            let hop = node.internal_ips.iter().find(|a| a.is_ipv4() == v4);
            if let (false, Some(hop)) = (is_within(&own, net), hop) {
                routes.entry(net.trunc()).or_insert(*hop);
            }
        }
    }
    routes
}

fn in_ranges<'a>(ranges: impl IntoIterator<Item = &'a IpNet>, address: &IpAddr) -> bool {
    ranges.into_iter().any(|net| net.contains(address))
}

/// Whether a range lies within a pod range of these nodes.
fn is_within(nodes: &[&Node], net: &IpNet) -> bool {
    nodes.iter().flat_map(|n| &n.pod_cidrs).any(|range| range.contains(net))
}

/// The trie key of a range. IPv4 addresses are v4-mapped, which adds 96 to the prefix length.
pub fn network_key(net: IpNet) -> NetworkKey {
    let net = net.trunc();
    let bits = u32::from(net.prefix_len());
    let prefix_len = if net.addr().is_ipv4() { bits + 96 } else { bits };
    NetworkKey { prefix_len, addr: net.addr().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ips: &[&str], cidrs: &[&str]) -> Node {
        Node {
            name: name.into(),
            internal_ips: ips.iter().map(|a| a.parse().expect("address")).collect(),
            pod_cidrs: cidrs.iter().map(|a| a.parse().expect("cidr")).collect(),
            ..Node::default()
        }
    }

    #[test]
    fn each_class_has_its_prefixes() {
        let nodes = [
            node("n1", &["172.18.0.2", "fc00::2"], &["10.244.1.0/24", "fd00:1::/64"]),
            // Has the pod range of n2, a part of the pod range of n1 and an address of n1.
            node("n3", &["172.18.0.2"], &["10.244.2.0/24", "10.244.1.128/25", "fd00:3::/64"]),
            node("n2", &["172.18.0.3", "fc00::3"], &["10.244.2.0/24", "fd00:2::/64"]),
        ];
        let context = NodeContext {
            local_addresses: vec!["172.18.0.2".parse().expect("address")],
            service_cidrs: vec!["10.96.0.0/16".parse().expect("cidr")],
            ..NodeContext::default()
        };
        let objects = ["10.97.0.0/16", "10.244.2.0/24", "10.244.1.0/28", "10.244.2.0/28"];
        let objects = objects.map(|net| net.parse().expect("cidr"));
        let rows = networks("n1", &nodes, &objects, &context);
        let kind = |net: &str| rows.get(&network_key(net.parse().expect("net"))).map(|n| n.kind);
        assert_eq!(kind("172.18.0.2/32"), Some(network_kind::THIS_NODE));
        assert_eq!(kind("10.244.1.0/24"), Some(network_kind::LOCAL_PODS));
        assert_eq!(kind("172.18.0.3/32"), Some(network_kind::OTHER_NODE));
        assert_eq!(kind("fc00::3/128"), Some(network_kind::OTHER_NODE));
        assert_eq!(kind("10.244.2.0/24"), Some(network_kind::REMOTE_PODS));
        assert_eq!(kind("fd00:2::/64"), Some(network_kind::REMOTE_PODS));
        assert_eq!(kind("10.96.0.0/16"), Some(network_kind::SERVICES));
        assert_eq!(kind("10.97.0.0/16"), Some(network_kind::SERVICES));
        assert_eq!(rows.len(), 10);
        let key = network_key("10.244.1.0/24".parse().expect("net"));
        assert_eq!(key.prefix_len, 120);
        assert_eq!(key.addr.0[12..], [10, 244, 1, 0]);

        let routes = routes("n1", &nodes);
        let text: Vec<String> = routes.iter().map(|(n, h)| format!("{n} {h}")).collect();
        assert_eq!(text, ["10.244.2.0/24 172.18.0.3", "fd00:2::/64 fc00::3"]);
    }

    #[test]
    fn ranges_of_services_that_overlap_pod_ranges_are_found() {
        let nodes = [
            node("n1", &[], &["10.244.1.0/24", "fd00:1::/64"]),
            node("n2", &[], &["10.244.2.0/24", "fd00:2::/64"]),
        ];
        let cidr = |net: &str| -> IpNet { net.parse().expect("cidr") };
        let context =
            NodeContext { service_cidrs: vec![cidr("10.96.0.0/16")], ..NodeContext::default() };
        let found = |objects: &[&str]| {
            let objects: Vec<IpNet> = objects.iter().map(|net| cidr(net)).collect();
            let found = overlaps(&nodes, &objects, &context).into_iter();
            let text = |o: Overlap| format!("{} {} {} {}", o.services, o.pods, o.node, o.others);
            found.map(text).collect::<Vec<_>>()
        };
        assert_eq!(found(&["10.97.0.0/16", "10.244.3.0/24", "fd00:3::/64"]), Vec::<String>::new());
        assert_eq!(found(&["10.244.2.16/28"]), ["10.244.2.16/28 10.244.2.0/24 n2 0"]);
        assert_eq!(
            found(&["10.244.2.0/24", "10.244.2.0/24"]),
            ["10.244.2.0/24 10.244.2.0/24 n2 0"]
        );
        assert_eq!(found(&["10.244.0.0/16"]), ["10.244.0.0/16 10.244.1.0/24 n1 1"]);
        let everything = NodeContext { service_cidrs: vec![cidr("fd00::/8")], ..context.clone() };
        let found = overlaps(&nodes, &[], &everything);
        assert_eq!(found.len(), 1, "also of the configuration");
    }
}
