//! What kind of place an address is.

use sluice_abi::{NodeConfig, network_kind};
use sluice_packet::ipv4;

use crate::{
    maps,
    packet::{Packet, v4},
};

/// Where packets to some address belong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A pod of this node.
    Pod,
    /// This node's pod range, but no pod.
    FreePod,
    /// This node itself.
    Node,
    /// A pod of another node.
    RemotePod,
    /// Another node.
    OtherNode,
    /// A ServiceCIDR.
    Services,
    /// Nothing that is routed: multicast, broadcast.
    Link,
    /// Outside the cluster.
    Outside,
}

/// Looks up the address that the packet goes on to. The pod that has it is left in `p.pod`: a
/// pointer inside the enum would be one that older verifiers lose sight of.
#[inline(always)]
pub fn of(p: &mut Packet, node: &NodeConfig) -> Place {
    let addr = &p.out.dst;
    if let Some(endpoint) = maps::local_pod(addr) {
        p.pod = *endpoint;
        return Place::Pod;
    }
    if *addr == node.addr(addr) || *addr == node.gateway(addr) {
        return Place::Node;
    }
    match maps::network_kind(addr) {
        network_kind::LOCAL_PODS => Place::FreePod,
        network_kind::REMOTE_PODS => Place::RemotePod,
        network_kind::THIS_NODE => Place::Node,
        network_kind::OTHER_NODE => Place::OtherNode,
        network_kind::SERVICES => Place::Services,
        _ if ipv4::stays_on_link(v4(&addr.0)) => Place::Link,
        _ => Place::Outside,
    }
}

impl Place {
    /// Whether a Service may live at such an address.
    #[inline(always)]
    pub fn may_be_service(self) -> bool {
        matches!(self, Place::Services | Place::Outside)
    }
}
