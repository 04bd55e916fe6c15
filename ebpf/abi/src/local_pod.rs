//! Pods of this node.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `LOCAL_PODS`, keyed by the pod's [`crate::Addr`]. Written by CNI ADD, removed by CNI
/// DEL, repaired by the agent.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct LocalPod {
    /// Interface index of the host end of the veth pair. A packet with the pod's address as source
    /// is spoofed if it arrives on another interface.
    pub ifindex: u32,
    /// Hardware address of the pod end.
    pub pod_mac: [u8; 6],
    /// Hardware address of the host end.
    pub host_mac: [u8; 6],
}

const _: () = assert!(size_of::<LocalPod>() == 16);
