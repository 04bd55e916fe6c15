//! Pods of this node.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `ENDPOINTS`, keyed by the pod's [`crate::Addr`]. Written by CNI ADD, removed by CNI
/// DEL, repaired by the agent.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Endpoint {
    /// Interface index of the host end of the veth pair. A packet from the pod's address that
    /// comes in anywhere else is spoofed.
    pub ifindex: u32,
    /// Bits of [`endpoint_flags`].
    pub flags: u32,
    /// Id of the rule table that holds the pod's policy verdicts; 0: no policy selects the pod.
    pub rule_table: u32,
    /// Hardware address of the pod's end.
    pub pod_mac: [u8; 6],
    /// Hardware address of the host's end.
    pub host_mac: [u8; 6],
}

const _: () = assert!(size_of::<Endpoint>() == 24);

/// Bits of [`Endpoint::flags`].
pub mod endpoint_flags {
    /// Reserved for policy: nothing is known of the pod's policies yet, so nothing may pass.
    pub const UNKNOWN_POLICY: u32 = 1;
}
