//! Pods of this node.
//!
//! ```text
//! LOCAL_PODS  address -> LocalPod     the first packet of a flow
//! PODS        [index] -> LocalPod     every packet: a flow holds a PodRef to each of its pods
//! POD_FLOWS   [index] -> PodFlows     what the pod, or all senders without one, may add to the flow tables
//! ```
//! CNI ADD writes the row to both maps before the pod's device is up; DEL removes both; the agent
//! repairs them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `LOCAL_PODS` and `PODS`. All zero in `PODS`: no pod has this index.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct LocalPod {
    /// Index in `PODS`.
    #[cfg(feature = "abi-next")]
    pub index: u16,
    /// As without the feature.
    #[cfg(feature = "abi-next")]
    pub generation: u16,
    /// [`crate::namespace_id`] of the pod's namespace; 0: not known.
    #[cfg(not(feature = "abi-next"))]
    pub namespace: u64,
    /// Interface index of the host end of the veth pair. A packet with the pod's address as source
    /// is spoofed if it arrives on another interface.
    pub ifindex: u32,
    /// Hardware address of the pod end.
    pub pod_mac: [u8; 6],
    /// Hardware address of the host end.
    pub host_mac: [u8; 6],
    /// Index in `PODS`.
    #[cfg(not(feature = "abi-next"))]
    pub index: u16,
    /// Number of this use of the index, never 0: flows of an earlier pod with the same index
    /// and address do not match.
    #[cfg(not(feature = "abi-next"))]
    pub generation: u16,
    /// Zero.
    pub pad: u32,
    /// As without the feature.
    #[cfg(feature = "abi-next")]
    pub namespace: u64,
}

const _: () = assert!(size_of::<LocalPod>() == 32);

impl LocalPod {
    /// The reference of flows to this pod.
    #[inline(always)]
    pub const fn reference(&self) -> PodRef {
        PodRef { index: self.index, generation: self.generation }
    }
}

/// Reference of a flow to a pod of this node.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PodRef {
    /// Index in `PODS`.
    pub index: u16,
    /// [`LocalPod::generation`]; 0: no pod of this node.
    pub generation: u16,
}

impl PodRef {
    /// The end of the flow is not a pod of this node.
    pub const NONE: PodRef = PodRef { index: 0, generation: 0 };

    /// Whether the end of the flow is not a pod of this node.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.generation == 0
    }
}

/// Value of `POD_FLOWS`, index as in `PODS`: limits of what one pod adds to the flow tables. The flows without a pod
/// of this node, except TCP, share the row [`crate::map::FLOWS_WITHOUT_POD`], and use no tokens.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PodFlows {
    /// Entries of the pod's flows in `FLOWS`. Programs add and subtract, the agent corrects the
    /// number when it has counted.
    pub confirmed: u32,
    /// Flows that were not confirmed because `confirmed` had reached its limit, or `FLOWS` was full.
    pub unconfirmed: u32,
    /// Tokens that the pod has used: one per new flow, returned when the flow is confirmed and as
    /// time passes.
    pub tokens_used: u32,
    /// [`crate::tick`] of the last return by time.
    pub returned_at: u32,
}

const _: () = assert!(size_of::<PodFlows>() == 16);
