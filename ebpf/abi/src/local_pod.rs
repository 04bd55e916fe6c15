//! Pods of this node.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `LOCAL_PODS`, keyed by the pod's [`crate::Addr`]. Written by CNI ADD, removed by CNI
/// DEL, repaired by the agent.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct LocalPod {
    /// Interface index of the host end of the veth pair. A packet from the pod's address that
    /// comes in anywhere else is spoofed.
    pub ifindex: u32,
    /// Hardware address of the pod's end.
    pub pod_mac: [u8; 6],
    /// Hardware address of the host's end.
    pub host_mac: [u8; 6],
}

const _: () = assert!(size_of::<LocalPod>() == 16);
