//! Networks of the cluster, by longest prefix.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// Key of the `NETWORKS` LPM trie.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct NetworkKey {
    /// Prefix length, 0 to 128; an IPv4 /24 is 120.
    pub prefix_len: u32,
    /// Network address, host bits zero.
    pub addr: Addr,
}

const _: () = assert!(size_of::<NetworkKey>() == 20);

/// Value of `NETWORKS`. An address without an entry is outside the cluster.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Network {
    /// One of [`network_kind`].
    pub kind: u32,
}

/// Values of [`Network::kind`].
pub mod network_kind {
    /// Outside the cluster: pods are masqueraded.
    pub const OUTSIDE: u32 = 0;
    /// The pod addresses of this node; an address without a pod is free.
    pub const LOCAL_PODS: u32 = 1;
    /// Pod addresses of another node.
    pub const REMOTE_PODS: u32 = 2;
    /// An address of this node: NodePorts are served on it, other packets go to the node's stack.
    pub const THIS_NODE: u32 = 3;
    /// An address of another node: packets to it are never masqueraded.
    pub const OTHER_NODE: u32 = 4;
    /// A ServiceCIDR: packets to an address without a frontend are dropped.
    pub const SERVICES: u32 = 5;
    /// An address of this node on which no NodePorts are served; loopback addresses have a network
    /// only if they serve none.
    pub const THIS_NODE_WITHOUT_NODE_PORTS: u32 = 6;
}
