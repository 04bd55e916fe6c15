//! Access to the rows of this node's pods.

use sluice_abi::{Addr, LocalPod, PodRef};

use super::{LOCAL_PODS, PODS};

/// The row of a pod. Fields are read one by one: the stack has no room for copies. The CNI binary
/// writes a row once and removes it.
#[derive(Clone, Copy)]
pub struct PodRow(*const LocalPod);

/// The pod of this node with this address.
#[inline(always)]
pub fn local_pod(addr: &Addr) -> Option<PodRow> {
    LOCAL_PODS.get_ptr(addr).map(PodRow)
}

/// The pod that a flow refers to, if it still exists.
#[inline(always)]
pub fn pod(reference: PodRef) -> Option<PodRow> {
    let pod = PODS.get_ptr(u32::from(reference.index)).map(PodRow)?;
    if pod.reference().generation == reference.generation { Some(pod) } else { None }
}

impl PodRow {
    /// Copies the row.
    #[inline(always)]
    pub fn copy(self, to: &mut LocalPod) {
        // SAFETY: plain integers. An array entry exists as long as the map, and the memory of a removed
        // entry of the hash map is not reused before the program ends; as in all accesses below.
        *to = unsafe { *self.0 };
    }

    /// Whether frames with this hardware address from this device are those of the pod.
    #[inline(always)]
    pub fn sends(self, ifindex: u32, mac: [u8; 6]) -> bool {
        // SAFETY: see `copy`.
        unsafe { (*self.0).ifindex == ifindex && (*self.0).pod_mac == mac }
    }

    /// Interface index of the host end of the pod's veth pair.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: see `copy`.
        unsafe { (*self.0).ifindex }
    }

    /// [`LocalPod::reference`].
    #[inline(always)]
    pub fn reference(self) -> PodRef {
        // SAFETY: see `copy`.
        unsafe { PodRef { index: (*self.0).index, generation: (*self.0).generation } }
    }

    /// [`LocalPod::namespace`].
    #[inline(always)]
    pub fn namespace(self) -> u64 {
        // SAFETY: see `copy`.
        unsafe { (*self.0).namespace }
    }
}
