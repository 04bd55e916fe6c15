//! Destination class: what kind of destination an address is.

use sluice_abi::{Addr, DropReason, PodRef, network_kind};
use sluice_packet::ip;

use crate::flow::{Destination, DestinationClass};
use crate::verdict::Verdict;
use crate::{config, maps};

impl DestinationClass {
    /// Drops packets to free addresses of the pod range and of the Service range.
    #[inline(always)]
    pub fn require_owner(self) -> Result<(), Verdict> {
        match self {
            DestinationClass::FreePodAddress => Err(Verdict::Drop(DropReason::NoSuchPod)),
            DestinationClass::ServiceRange => Err(Verdict::Drop(DropReason::NoSuchService)),
            _ => Ok(()),
        }
    }
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
