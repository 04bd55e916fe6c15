//! Name and capacity of every map. A map is pinned as `<pins>/maps/<NAME>`.

/// Hash, [`crate::Addr`] -> [`crate::LocalPod`]: the pods of this node.
pub const LOCAL_PODS: &str = "LOCAL_PODS";
/// Capacity of [`LOCAL_PODS`].
pub const LOCAL_PODS_MAX: u32 = 4096;

/// LPM trie, [`crate::NetworkKey`] -> [`crate::Network`]: the networks of the cluster.
pub const NETWORKS: &str = "NETWORKS";
/// Capacity of [`NETWORKS`].
pub const NETWORKS_MAX: u32 = 65_536;

/// Hash, [`crate::FrontendKey`] -> [`crate::Frontend`].
pub const FRONTENDS: &str = "FRONTENDS";
/// Capacity of [`FRONTENDS`].
pub const FRONTENDS_MAX: u32 = 262_144;

/// Array of u32: slot -> backend id.
pub const SLOTS: &str = "SLOTS";
/// Capacity of [`SLOTS`].
pub const SLOTS_MAX: u32 = 2_097_152;

/// Hash, u32 backend id -> [`crate::Backend`]; id 0 is never used.
pub const BACKENDS: &str = "BACKENDS";
/// Capacity of [`BACKENDS`].
pub const BACKENDS_MAX: u32 = 524_288;

/// LRU hash, [`crate::FlowKey`] -> [`crate::FlowEntry`]: the flows that need state.
pub const CONNTRACK: &str = "CONNTRACK";
/// Capacity of [`CONNTRACK`]; a flow takes two entries.
pub const CONNTRACK_MAX: u32 = 262_144;

/// LRU hash, [`crate::FragmentKey`] -> [`crate::FragmentPorts`]: ports of fragmented datagrams.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// Capacity of [`FRAGMENTS`].
pub const FRAGMENTS_MAX: u32 = 8192;

/// Socket storage of [`crate::SocketOrigins`].
pub const SOCKET_ORIGINS: &str = "SOCKET_ORIGINS";

/// Array with one [`crate::NodeConfig`].
pub const NODE_CONFIG: &str = "NODE_CONFIG";

/// Per-CPU array of [`crate::Counter`].
pub const COUNTERS: &str = "COUNTERS";
/// Capacity of [`COUNTERS`]: drop reasons have indices below 128, outcomes from 128.
pub const COUNTERS_MAX: u32 = 256;

/// Ring buffer of [`crate::DropEvent`].
pub const EVENTS: &str = "EVENTS";
/// Bytes of [`EVENTS`].
pub const EVENTS_BYTES: u32 = 262_144;

/// Every pinned map.
pub const ALL: [&str; 11] = [
    LOCAL_PODS,
    NETWORKS,
    FRONTENDS,
    SLOTS,
    BACKENDS,
    CONNTRACK,
    FRAGMENTS,
    SOCKET_ORIGINS,
    NODE_CONFIG,
    COUNTERS,
    EVENTS,
];
