//! The maps that user space shares, and typed access to them. Names and capacities are defined in
//! `sluice_abi::map`, layouts in `sluice_abi`.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
};
use sluice_abi::{
    Addr, Backend, Counter, Direction, FlowEntry, FlowKey, FlowKind, FragmentKey, FragmentPorts,
    Frontend, FrontendKey, LocalPod, Network, NodeConfig, PortBe, SocketOrigins, WILDCARD_PORT,
    WILDCARD_PROTO, map, network_kind,
};

/// The pods of this node.
#[map]
pub static LOCAL_PODS: HashMap<Addr, LocalPod> = HashMap::with_max_entries(map::LOCAL_PODS_MAX, 0);

/// The networks of the cluster.
#[map]
pub static NETWORKS: LpmTrie<Addr, Network> =
    LpmTrie::with_max_entries(map::NETWORKS_MAX, BPF_F_NO_PREALLOC);

/// Service addresses and ports.
#[map]
pub static FRONTENDS: HashMap<FrontendKey, Frontend> =
    HashMap::with_max_entries(map::FRONTENDS_MAX, BPF_F_NO_PREALLOC);

/// Ranges of backend ids.
#[map]
pub static SLOTS: Array<u32> = Array::with_max_entries(map::SLOTS_MAX, 0);

/// Endpoints of Services by id.
#[map]
pub static BACKENDS: HashMap<u32, Backend> =
    HashMap::with_max_entries(map::BACKENDS_MAX, BPF_F_NO_PREALLOC);

/// Flows.
#[map]
pub static CONNTRACK: LruHashMap<FlowKey, FlowEntry> =
    LruHashMap::with_max_entries(map::CONNTRACK_MAX, 0);

/// Ports of fragmented datagrams.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> =
    LruHashMap::with_max_entries(map::FRAGMENTS_MAX, 0);

/// Original destinations of translated sockets.
#[btf_map]
pub static SOCKET_ORIGINS: SkStorage<SocketOrigins> = SkStorage::new();

/// The node's configuration.
#[map]
pub static NODE_CONFIG: Array<NodeConfig> = Array::with_max_entries(1, 0);

/// Packets and bytes per drop reason and outcome.
#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(map::COUNTERS_MAX, 0);

/// Drop events.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(map::EVENTS_BYTES, 0);

/// The pod of this node with this address.
#[inline(always)]
pub fn local_pod(addr: &Addr) -> Option<LocalPod> {
    // SAFETY: plain integers that the CNI binary writes once and removes; the memory of a removed
    // entry is not reused before the program ends.
    LOCAL_PODS.get_ptr(addr).map(|p| unsafe { *p })
}

/// The network of this address: a [`network_kind`].
#[inline(always)]
pub fn network_kind(addr: &Addr) -> u32 {
    match NETWORKS.get(&Key::new(128, *addr)) {
        Some(network) => network.kind,
        None => network_kind::OUTSIDE,
    }
}

/// The frontend with exactly this address, port and protocol.
#[inline(always)]
pub fn frontend(addr: &Addr, port: PortBe, proto: u8) -> Option<Frontend> {
    let key = FrontendKey { addr: *addr, port, proto, pad: 0 };
    // SAFETY: copied at once; the map replaces entries instead of writing into them.
    FRONTENDS.get_ptr(&key).map(|p| unsafe { *p })
}

/// The wildcard frontend of a Service address.
#[inline(always)]
pub fn wildcard_frontend(addr: &Addr) -> Option<Frontend> {
    frontend(addr, WILDCARD_PORT, WILDCARD_PROTO)
}

/// The backend with this id.
#[inline(always)]
pub fn backend(id: u32) -> Option<Backend> {
    // SAFETY: as for `frontend`.
    BACKENDS.get_ptr(&id).map(|p| unsafe { *p })
}

/// A conntrack entry in the map. Fields are read and written one by one: other CPUs access the
/// entry at the same time, so that no reference to it can exist.
#[derive(Clone, Copy)]
pub struct FlowRef(*mut FlowEntry);

/// The conntrack entry with this key.
#[inline(always)]
pub fn flow(key: &FlowKey) -> Option<FlowRef> {
    CONNTRACK.get_ptr_mut(key).map(FlowRef)
}

impl FlowRef {
    /// A copy of the entry.
    #[inline(always)]
    pub fn get(self) -> FlowEntry {
        // SAFETY: the memory of an evicted entry remains a valid `FlowEntry` until the program
        // ends, as in all accesses below.
        unsafe { *self.0 }
    }

    /// [`FlowEntry::translated`].
    #[inline(always)]
    pub fn translated(self) -> FlowKey {
        // SAFETY: see `get`.
        unsafe { (*self.0).translated }
    }

    /// Address of [`FlowEntry::translated`], for global functions.
    #[inline(always)]
    pub fn translated_ptr(self) -> *const FlowKey {
        // SAFETY: see `get`.
        unsafe { &raw const (*self.0).translated }
    }

    /// [`FlowEntry::kind`].
    #[inline(always)]
    pub fn kind(self) -> Option<FlowKind> {
        // SAFETY: see `get`.
        FlowKind::from_number(unsafe { (*self.0).kind })
    }

    /// [`FlowEntry::direction`].
    #[inline(always)]
    pub fn direction(self) -> Option<Direction> {
        // SAFETY: see `get`.
        Direction::from_number(unsafe { (*self.0).direction })
    }

    /// [`FlowEntry::backend`].
    #[inline(always)]
    pub fn backend(self) -> u32 {
        // SAFETY: see `get`.
        unsafe { (*self.0).backend }
    }

    /// [`FlowEntry::tcp`].
    #[inline(always)]
    pub fn tcp(self) -> u8 {
        // SAFETY: see `get`.
        unsafe { (*self.0).tcp }
    }

    /// [`FlowEntry::last_seen_ns`].
    #[inline(always)]
    pub fn last_seen_ns(self) -> u64 {
        // SAFETY: see `get`.
        unsafe { (*self.0).last_seen_ns }
    }

    /// Sets [`FlowEntry::tcp`]. Of two concurrent writes, either may win.
    #[inline(always)]
    pub fn set_tcp(self, state: u8) {
        // SAFETY: see `get`.
        unsafe { (*self.0).tcp = state }
    }

    /// Sets [`FlowEntry::last_seen_ns`]. Of two concurrent writes, either may win.
    #[inline(always)]
    pub fn set_last_seen_ns(self, now: u64) {
        // SAFETY: see `get`.
        unsafe { (*self.0).last_seen_ns = now }
    }
}
