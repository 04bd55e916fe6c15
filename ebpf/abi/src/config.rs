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
    /// Bits of [`node_flags`].
    #[cfg(feature = "abi-next")]
    pub flags: u32,
    /// MTU of the uplink in bytes.
    #[cfg(feature = "abi-next")]
    pub mtu: u32,
    /// The node's address, by [`crate::Family`]: source of flows that Services send back to a pod of
    /// this node. [`crate::Device`] has the sources of masqueraded flows.
    /// Unspecified for a family that the node does not have.
    pub addrs: [Addr; 2],
    /// The link-local gateway that pods use, by [`crate::Family`].
    pub gateways: [Addr; 2],
    /// Bits of [`node_flags`].
    #[cfg(not(feature = "abi-next"))]
    pub flags: u32,
    /// MTU of the uplink in bytes, for the agent: the programs use that of the route.
    #[cfg(not(feature = "abi-next"))]
    pub mtu: u32,
    /// Secret key of the hash that chooses source ports; random, kept while the map is pinned.
    pub snat_key: [u64; 2],
    /// Ports of source translation: disjoint from each other, from the node's ephemeral ports and
    /// from the NodePort range.
    pub snat_ports: [PortRange; 4],
    /// Cookie of the node's network namespace, or 0: sockets with it are those of node processes.
    pub netns_cookie: u64,
    /// Limit of entries in `FLOWS` per pod.
    pub flows_per_pod: u32,
    /// Limit of entries in `FLOWS` of all flows without a pod of this node, except TCP.
    pub flows_without_pod: u32,
}

const _: () = assert!(size_of::<NodeConfig>() == 120);

/// A range of ports, in host order, both ends included. `first` 0: no ports.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

impl PortRange {
    /// Number of ports.
    #[inline(always)]
    pub const fn len(&self) -> u32 {
        if self.is_empty() { 0 } else { self.last as u32 - self.first as u32 + 1 }
    }

    /// Whether the range has no ports.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.first == 0 || self.last < self.first
    }
}

/// Bits of [`NodeConfig::flags`].
pub mod node_flags {
    /// The agent has written the tables; until then the pod hooks drop packets.
    pub const READY: u32 = 1;
    /// Packets from pods to addresses outside the cluster leave with the node's address.
    pub const MASQUERADE: u32 = 2;
    /// The programs of another version have taken over: every packet continues in those of
    /// `SUCCESSORS`, unless they have asked about it. The number is the same in every version.
    pub const HANDED_OVER: u32 = 4;
    /// The programs of `PREDECESSORS` have flows that are not in the maps of these programs yet:
    /// they are asked about a packet without a flow. The number is the same in every version.
    pub const LOOK_BACK: u32 = 8;
    /// What the migration sets, and the agent's writes keep.
    pub const MIGRATION: u32 = HANDED_OVER | LOOK_BACK;
}
