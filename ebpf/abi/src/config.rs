//! The node's configuration: one array entry, which can change while programs are loaded.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// Entry 0 of the `NODE_CONFIG` array. Until the agent has written it, `flags` lacks
/// [`node_flags::READY`], and the pod hooks drop packets.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct NodeConfig {
    /// The node's address on the uplink, by [`crate::Family`]; source of masqueraded packets.
    /// Unspecified for a family that the node does not have.
    pub addrs: [Addr; 2],
    /// The link-local gateway that pods use, by [`crate::Family`].
    pub gateways: [Addr; 2],
    /// Bits of [`node_flags`].
    pub flags: u32,
    /// MTU of the uplink in bytes.
    pub mtu: u32,
    /// First port (host order) of source translation; the range is disjoint from the node's
    /// ephemeral ports and from the NodePort range.
    pub snat_port_min: u16,
    /// Last port (host order, inclusive) of source translation.
    pub snat_port_max: u16,
}

const _: () = assert!(size_of::<NodeConfig>() == 76);

/// Bits of [`NodeConfig::flags`].
pub mod node_flags {
    /// The agent has written the tables; until then the pod hooks drop packets.
    pub const READY: u32 = 1;
    /// Packets from pods to addresses outside the cluster leave with the node's address.
    pub const MASQUERADE: u32 = 2;
}
