//! Name and capacity of every map. A map is pinned as `<pins>/maps/<NAME>`.
//!
//! Maps that grow start with the capacity `_INITIAL`: those of Services with space for about 2,500 of them
//! with ten endpoints each. An agent that finds no maps creates them for its first lists; later, it replaces
//! them by larger ones, up to `_MAX`, when its tables need more.

/// Hash, [`crate::Addr`] -> [`crate::LocalPod`]: the pods of this node by address.
pub const LOCAL_PODS: &str = "LOCAL_PODS";
/// Capacity of [`LOCAL_PODS`], [`PODS`], [`POD_FLOWS`], [`POD_POLICY`] and [`POD_NETNS`]. A pod has an index below
/// [`FLOWS_WITHOUT_POD`].
pub const LOCAL_PODS_MAX: u32 = 4096;

/// Array of [`crate::LocalPod`]: the pods of this node by index.
pub const PODS: &str = "PODS";

/// Array of [`crate::PodFlows`], with the index of [`PODS`].
pub const POD_FLOWS: &str = "POD_FLOWS";
/// Index in [`POD_FLOWS`] of the flows without a pod of this node, such as those to a NodePort whose endpoint is on
/// another node, except TCP ([`crate::FlowEntry::account`]). No pod has it.
pub const FLOWS_WITHOUT_POD: u32 = LOCAL_PODS_MAX - 1;

/// LPM trie, [`crate::NetworkKey`] -> [`crate::Network`]: the networks of the cluster.
pub const NETWORKS: &str = "NETWORKS";
/// Capacity of [`NETWORKS`].
pub const NETWORKS_MAX: u32 = 65_536;

/// Hash, [`crate::FrontendKey`] -> [`crate::Frontend`].
pub const FRONTENDS: &str = "FRONTENDS";
/// Initial capacity, without larger first lists, of [`FRONTENDS`].
pub const FRONTENDS_INITIAL: u32 = 8192;
/// Largest capacity of [`FRONTENDS`].
pub const FRONTENDS_MAX: u32 = 262_144;

/// Hash, u32 id -> [`crate::ServicePort`]; id 0 is never used.
pub const SERVICES: &str = "SERVICES";
/// Initial capacity, without larger first lists, of [`SERVICES`].
pub const SERVICES_INITIAL: u32 = 4096;
/// Largest capacity of [`SERVICES`].
pub const SERVICES_MAX: u32 = 131_072;

/// Array of u32: slot -> backend id.
pub const SLOTS: &str = "SLOTS";
/// Initial capacity, without larger first lists, of [`SLOTS`].
pub const SLOTS_INITIAL: u32 = 32_768;
/// Largest capacity of [`SLOTS`].
pub const SLOTS_MAX: u32 = 2_097_152;

/// Hash, u32 backend id -> [`crate::Backend`]; id 0 is never used.
pub const BACKENDS: &str = "BACKENDS";
/// Initial capacity, without larger first lists, of [`BACKENDS`].
pub const BACKENDS_INITIAL: u32 = 32_768;
/// Largest capacity of [`BACKENDS`].
pub const BACKENDS_MAX: u32 = 524_288;

/// LRU hash, [`crate::AffinityKey`] -> [`crate::Affinity`]: session affinity.
pub const AFFINITY: &str = "AFFINITY";
/// Capacity of [`AFFINITY`].
pub const AFFINITY_MAX: u32 = 32_768;

/// LPM trie, [`crate::SourceRangeKey`] -> 1: clients of load balancer addresses.
pub const SOURCE_RANGES: &str = "SOURCE_RANGES";
/// Capacity of [`SOURCE_RANGES`], whose entries take memory only if they exist.
pub const SOURCE_RANGES_MAX: u32 = 262_144;
/// Entries of [`SOURCE_RANGES`] that a Service port may have.
pub const SOURCE_RANGES_PER_PORT: u32 = 1024;

/// Hash, u64 cookie of a network namespace -> [`crate::PodNetns`]: the pods of this node.
pub const POD_NETNS: &str = "POD_NETNS";

/// Hash, [`crate::FrontendKey`] -> [`crate::Backend`]: hostPorts of the pods of this node.
pub const HOST_PORTS: &str = "HOST_PORTS";
/// Capacity of [`HOST_PORTS`].
pub const HOST_PORTS_MAX: u32 = 8192;

/// Array of [`crate::PodPolicy`], with the index of [`PODS`].
pub const POD_POLICY: &str = "POD_POLICY";

/// Hash, [`crate::Addr`] -> u64 class: pods of the cluster as peers of policies.
pub const POLICY_CLASSES: &str = "POLICY_CLASSES";
/// Initial capacity, without larger first lists, of [`POLICY_CLASSES`].
pub const POLICY_CLASSES_INITIAL: u32 = 65_536;
/// Largest capacity of [`POLICY_CLASSES`].
pub const POLICY_CLASSES_MAX: u32 = 262_144;

/// LPM trie, [`crate::NetworkKey`] -> u64 class: other peers of policies.
pub const POLICY_NETWORKS: &str = "POLICY_NETWORKS";
/// Capacity of [`POLICY_NETWORKS`], whose entries take memory only if they exist.
pub const POLICY_NETWORKS_MAX: u32 = 131_072;

/// Hash, [`crate::PolicyPeerKey`] -> [`crate::PolicyPorts`].
pub const POLICY_PEERS: &str = "POLICY_PEERS";
/// Initial capacity, without larger first lists, of [`POLICY_PEERS`].
pub const POLICY_PEERS_INITIAL: u32 = 16_384;
/// Largest capacity of [`POLICY_PEERS`].
pub const POLICY_PEERS_MAX: u32 = 131_072;

/// LPM trie, [`crate::PolicyPortKey`] -> 1: sets of ports.
pub const POLICY_PORTS: &str = "POLICY_PORTS";
/// Capacity of [`POLICY_PORTS`], whose entries take memory only if they exist.
pub const POLICY_PORTS_MAX: u32 = 131_072;

/// Hash, u64 of [`crate::namespace_id`] -> 1: namespaces of whose pods no policy selects any.
pub const OPEN_NAMESPACES: &str = "OPEN_NAMESPACES";
/// Capacity of [`OPEN_NAMESPACES`].
pub const OPEN_NAMESPACES_MAX: u32 = 16_384;

/// Array with one u32: the number of the last change of policies.
pub const POLICY_EPOCH: &str = "POLICY_EPOCH";

/// Hash, [`crate::FlowKey`] -> [`crate::FlowEntry`]: flows that were answered and are not closed.
pub const FLOWS: &str = "FLOWS";
/// Capacity of [`FLOWS`]; a translated flow takes two entries, others one.
pub const FLOWS_MAX: u32 = if crate::NEXT { 524_288 } else { 262_144 };

/// LRU hash, as [`FLOWS`]: unanswered and closed flows whose first packet a pod or this node sent.
pub const FLOWS_NEW_POD: &str = "FLOWS_NEW_POD";
/// Capacity of [`FLOWS_NEW_POD`].
pub const FLOWS_NEW_POD_MAX: u32 = 32_768;

/// LRU hash, as [`FLOWS`]: unanswered and closed flows whose first packet an uplink received.
pub const FLOWS_NEW_WIRE: &str = "FLOWS_NEW_WIRE";
/// Capacity of [`FLOWS_NEW_WIRE`].
pub const FLOWS_NEW_WIRE_MAX: u32 = 16_384;

/// The tables of flows.
pub const FLOW_TABLES: [&str; 3] = [FLOWS, FLOWS_NEW_POD, FLOWS_NEW_WIRE];

/// The tables of Services. Their rows refer to each other by slots and ids, so programs use those of one version
/// only.
pub const SERVICE_TABLES: [&str; 5] = [FRONTENDS, SERVICES, SLOTS, BACKENDS, SOURCE_RANGES];

/// The tables of policies. Their rows refer to each other by tables, classes, sets of ports and epochs, so
/// programs use those of one version only. [`OPEN_NAMESPACES`] refers to none of them.
pub const POLICY_TABLES: [&str; 6] =
    [POD_POLICY, POLICY_CLASSES, POLICY_NETWORKS, POLICY_PEERS, POLICY_PORTS, POLICY_EPOCH];

/// LRU hash, [`crate::FragmentKey`] -> [`crate::FragmentPorts`]: ports of fragmented datagrams.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// Capacity of [`FRAGMENTS`].
pub const FRAGMENTS_MAX: u32 = 8192;

/// Socket storage of [`crate::SocketOrigins`].
pub const SOCKET_ORIGINS: &str = "SOCKET_ORIGINS";

/// Hash, u64 cookie of a socket -> [`crate::UdpSocket`]: connected datagram sockets that were translated.
pub const UDP_SOCKETS: &str = "UDP_SOCKETS";
/// Capacity of [`UDP_SOCKETS`], whose entries take memory only if they exist.
pub const UDP_SOCKETS_MAX: u32 = 32_768;

/// Array with one [`crate::NodeConfig`].
pub const NODE_CONFIG: &str = "NODE_CONFIG";

/// Hash, u32 interface index -> [`crate::Device`]: devices that packets leave by.
pub const DEVICES: &str = "DEVICES";
/// Capacity of [`DEVICES`].
pub const DEVICES_MAX: u32 = 4096;

/// Per-CPU array of [`crate::Counter`].
pub const COUNTERS: &str = "COUNTERS";
/// Capacity of [`COUNTERS`]: drop reasons have indices below 128, outcomes from 128, lost events from 192.
pub const COUNTERS_MAX: u32 = 256;

/// Program array, one program per [`crate::program::Hook`]: those of the version that takes over.
pub const SUCCESSORS: &str = "SUCCESSORS";

/// Program array, as [`SUCCESSORS`]: those of the version whose flows are taken over.
pub const PREDECESSORS: &str = "PREDECESSORS";

/// Ring buffer of [`crate::DropEvent`].
pub const EVENTS: &str = "EVENTS";
/// Bytes of [`EVENTS`].
pub const EVENTS_BYTES: u32 = 262_144;

/// Every pinned map.
pub const ALL: [&str; 31] = [
    LOCAL_PODS,
    PODS,
    POD_FLOWS,
    NETWORKS,
    FRONTENDS,
    SERVICES,
    SLOTS,
    BACKENDS,
    AFFINITY,
    SOURCE_RANGES,
    POD_NETNS,
    HOST_PORTS,
    POD_POLICY,
    POLICY_CLASSES,
    POLICY_NETWORKS,
    POLICY_PEERS,
    POLICY_PORTS,
    OPEN_NAMESPACES,
    POLICY_EPOCH,
    FLOWS,
    FLOWS_NEW_POD,
    FLOWS_NEW_WIRE,
    FRAGMENTS,
    SOCKET_ORIGINS,
    UDP_SOCKETS,
    NODE_CONFIG,
    DEVICES,
    SUCCESSORS,
    PREDECESSORS,
    COUNTERS,
    EVENTS,
];
