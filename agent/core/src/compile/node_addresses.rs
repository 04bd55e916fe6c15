//! The addresses of nodes, on which rows of Services depend.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{Node, NodeContext, Service};

/// Addresses of this node, of all nodes, and of their pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    local: BTreeSet<IpAddr>,
    all: BTreeSet<IpAddr>,
    pods: BTreeSet<IpNet>,
    /// The prefix lengths that occur in `pods`.
    pod_prefixes: BTreeSet<u8>,
}

impl NodeAddresses {
    /// The addresses of this node's interfaces, and those in the Node objects.
    pub fn new<'a>(nodes: impl Iterator<Item = &'a Node>, context: &NodeContext) -> NodeAddresses {
        let local: BTreeSet<IpAddr> = context.local_addresses.iter().copied().collect();
        let (mut all, mut pods) = (local.clone(), BTreeSet::new());
        for node in nodes {
            all.extend(node.internal_ips.iter().chain(&node.external_ips));
            pods.extend(node.pod_cidrs.iter().map(IpNet::trunc));
        }
        let pod_prefixes = pods.iter().map(IpNet::prefix_len).collect();
        NodeAddresses { local, all, pods, pod_prefixes }
    }

    /// Whether a node has this address, or it is in the pod range of one. A search by prefix length:
    /// clusters have thousands of pod ranges, of very few lengths.
    pub fn contains(&self, address: &IpAddr) -> bool {
        self.all.contains(address) || self.pod_range_of(address).is_some()
    }

    /// The pod range that an address is in.
    pub fn pod_range_of(&self, address: &IpAddr) -> Option<IpNet> {
        let range = |len: &u8| IpNet::new(*address, *len).ok().map(|net| net.trunc());
        self.pod_prefixes.iter().filter_map(range).find(|range| self.pods.contains(range))
    }

    /// The addresses of this node.
    pub fn local(&self) -> impl Iterator<Item = &IpAddr> {
        self.local.iter()
    }

    /// Whether the rows of a Service can differ between two states.
    pub fn differ_for(&self, other: &NodeAddresses, service: &Service) -> bool {
        service.external.as_ref().is_some_and(|external| {
            let addresses = external.ips.iter().chain(&external.load_balancer_ips);
            let limited = !external.source_ranges.is_empty();
            (limited && self.local != other.local)
                || addresses.into_iter().any(|a| self.contains(a) != other.contains(a))
        })
    }
}
