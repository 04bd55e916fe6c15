//! The addresses of nodes, on which rows of Services depend.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::{Node, NodeContext, Service};

/// Addresses of this node and of all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    local: BTreeSet<IpAddr>,
    all: BTreeSet<IpAddr>,
}

impl NodeAddresses {
    /// The addresses of this node's interfaces, and those in the Node objects.
    pub fn new<'a>(nodes: impl Iterator<Item = &'a Node>, context: &NodeContext) -> NodeAddresses {
        let local: BTreeSet<IpAddr> = context.local_addresses.iter().copied().collect();
        let internal = nodes.flat_map(|node| node.internal_ips.iter().copied());
        NodeAddresses { all: internal.chain(local.iter().copied()).collect(), local }
    }

    /// Whether a node has this address.
    pub fn contains(&self, address: &IpAddr) -> bool {
        self.all.contains(address)
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
