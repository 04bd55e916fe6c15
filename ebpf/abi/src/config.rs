//! What the programs must know of their node, in one array entry so that it can change under
//! loaded programs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// Entry 0 of the `NODE_CONFIG` array. Until the agent has written it, `flags` lacks
/// [`node_flags::READY`] and the pod hooks drop.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct NodeConfig {
    /// The node's IPv4 address on the uplink (v4-mapped); source of masqueraded packets.
    pub node_v4: Addr,
    /// The node's IPv6 address on the uplink, or unspecified.
    pub node_v6: Addr,
    /// The IPv4 gateway that pods see (link-local, v4-mapped).
    pub gateway_v4: Addr,
    /// Interface index of the uplink.
    pub uplink_ifindex: u32,
    /// Bits of [`node_flags`].
    pub flags: u32,
    /// First port (host order) that SNAT may use; disjoint from the node's ephemeral ports and
    /// from the NodePort range.
    pub snat_port_min: u16,
    /// Last port (host order, inclusive) that SNAT may use.
    pub snat_port_max: u16,
    /// MTU of the uplink in bytes.
    pub mtu: u32,
}

const _: () = assert!(size_of::<NodeConfig>() == 64);

/// Bits of [`NodeConfig::flags`].
pub mod node_flags {
    /// The agent has written the tables; before that pod hooks drop.
    pub const READY: u32 = 1;
    /// Packets from pods to addresses outside the cluster leave with the node's address.
    pub const MASQUERADE: u32 = 2;
}
