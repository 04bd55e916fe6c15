//! Destination class: what kind of destination an address is.

use sluice_abi::{Addr, DropReason, PodRef, network_kind};
use sluice_packet::ip;

use crate::flow::Destination;
use crate::verdict::Verdict;
use crate::{config, maps};

/// Class of a destination address. It decides how a packet is delivered. Flow entries contain the
/// numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum DestinationClass {
    /// Outside the cluster.
    Outside = 0,
    /// A pod of this node.
    LocalPod = 1,
    /// An address of this node's pod range that belongs to no pod.
    FreePodAddress = 2,
    /// This node.
    Node = 3,
    /// A pod of another node.
    RemotePod = 4,
    /// Another node.
    OtherNode = 5,
    /// An address of a ServiceCIDR.
    ServiceRange = 6,
    /// An address that is never routed: multicast, broadcast.
    Link = 7,
}

/// Classifies the address of a destination, and looks it up among the pods of this node.
#[inline(always)]
pub fn of(addr: &Addr, destination: &mut Destination) -> DestinationClass {
    if let Some(pod) = maps::local_pod(addr) {
        pod.copy(&mut destination.pod);
        destination.reference = pod.reference();
        return DestinationClass::LocalPod;
    }
    destination.reference = PodRef::NONE;
    of_other(addr)
}

/// Classifies an address that is not a pod of this node.
#[inline(always)]
pub fn of_other(addr: &Addr) -> DestinationClass {
    DestinationClass::from_number(class_of_other(addr) as u8)
}

/// Returns the number of the [`DestinationClass`] of an address that is not a pod of this node.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn class_of_other(addr: *const Addr) -> u32 {
    // SAFETY: the caller passes a reference; the verifier requires the check for null.
    match unsafe { addr.as_ref() } {
        Some(addr) => classify(addr) as u32,
        None => DestinationClass::Outside as u32,
    }
}

#[inline(always)]
fn classify(addr: &Addr) -> DestinationClass {
    if let Some(node) = config::node()
        && node.owns(addr)
    {
        return DestinationClass::Node;
    }
    match maps::network_kind(addr) {
        network_kind::LOCAL_PODS => DestinationClass::FreePodAddress,
        network_kind::REMOTE_PODS => DestinationClass::RemotePod,
        network_kind::THIS_NODE | network_kind::THIS_NODE_WITHOUT_NODE_PORTS => {
            DestinationClass::Node
        }
        network_kind::OTHER_NODE => DestinationClass::OtherNode,
        network_kind::SERVICES => DestinationClass::ServiceRange,
        _ if ip::stays_on_link(addr) => DestinationClass::Link,
        _ => DestinationClass::Outside,
    }
}

impl DestinationClass {
    /// Whether a frontend can have such an address. External IPs that are pod addresses are not
    /// served.
    #[inline(always)]
    pub fn may_be_service(self) -> bool {
        matches!(
            self,
            DestinationClass::ServiceRange
                | DestinationClass::Outside
                | DestinationClass::Node
                | DestinationClass::OtherNode
        )
    }

    /// Whether packets to such a destination are sent to another host.
    #[inline(always)]
    pub fn leaves_node(self) -> bool {
        matches!(
            self,
            DestinationClass::RemotePod | DestinationClass::OtherNode | DestinationClass::Outside
        )
    }

    /// The class with a number, [`DestinationClass::Outside`] for others.
    #[inline(always)]
    pub fn from_number(n: u8) -> DestinationClass {
        match n {
            1 => DestinationClass::LocalPod,
            2 => DestinationClass::FreePodAddress,
            3 => DestinationClass::Node,
            4 => DestinationClass::RemotePod,
            5 => DestinationClass::OtherNode,
            6 => DestinationClass::ServiceRange,
            7 => DestinationClass::Link,
            _ => DestinationClass::Outside,
        }
    }

    /// Drops packets to free addresses of the pod range and of the Service range.
    #[inline(always)]
    pub fn require_owner(self) -> Result<(), Verdict> {
        match self {
            DestinationClass::FreePodAddress => Err(Verdict::Drop(DropReason::NoSuchPod)),
            DestinationClass::ServiceRange => Err(Verdict::Drop(DropReason::NoSuchService)),
            _ => Ok(()),
        }
    }

    /// The pod that a packet of this class is delivered to, if it is on this node.
    #[inline(always)]
    pub fn local_pod(self, destination: &Destination) -> PodRef {
        if self == DestinationClass::LocalPod { destination.reference } else { PodRef::NONE }
    }
}
