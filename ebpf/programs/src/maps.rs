//! Every map. Names and capacities come from `sluice_abi::map`, layouts from `sluice_abi`.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
};
use sluice_abi::{
    Addr, Backend, Counter, FlowEntry, FlowKey, FragmentKey, FragmentPorts, Frontend, FrontendKey,
    LocalPod, Network, NodeConfig, SocketOrigins, map,
};

use crate::packet::Packet;

/// The pods of this node.
#[map]
pub static LOCAL_PODS: HashMap<Addr, LocalPod> = HashMap::with_max_entries(map::LOCAL_PODS_MAX, 0);

/// What kind of place an address is.
#[map]
pub static NETWORKS: LpmTrie<Addr, Network> =
    LpmTrie::with_max_entries(map::NETWORKS_MAX, BPF_F_NO_PREALLOC);

/// Service addresses and ports.
#[map]
pub static FRONTENDS: HashMap<FrontendKey, Frontend> =
    HashMap::with_max_entries(map::FRONTENDS_MAX, BPF_F_NO_PREALLOC);

/// Runs of backend ids.
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

/// How often fragments of a datagram have waited for its first one; nobody outside reads it.
#[map]
pub static FRAGMENT_WAITS: LruHashMap<FragmentKey, u32> =
    LruHashMap::with_max_entries(map::FRAGMENTS_MAX, 0);

/// What sockets asked for.
#[btf_map]
pub static SOCKET_ORIGINS: SkStorage<SocketOrigins> = SkStorage::new();

/// The node.
#[map]
pub static NODE_CONFIG: Array<NodeConfig> = Array::with_max_entries(1, 0);

/// Packets and bytes per drop reason and outcome.
#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(map::COUNTERS_MAX, 0);

/// Drops, one by one.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(map::EVENTS_BYTES, 0);

/// The packet that this CPU works on; nobody outside reads it.
#[map]
pub static PACKET: PerCpuArray<Packet> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's packet.
#[inline(always)]
pub fn packet() -> Option<&'static mut Packet> {
    // SAFETY: this CPU's own entry; no tc program interrupts another one on its CPU, and a function
    // that gets it here was called by one that does not use its own reference meanwhile.
    PACKET.get_ptr_mut(0).map(|p| unsafe { &mut *p })
}

/// The endpoint with this address, if it is a pod of this node.
#[inline(always)]
pub fn local_pod(addr: &Addr) -> Option<&'static LocalPod> {
    // SAFETY: plain integers that the CNI binary writes once and removes; the memory of a removed
    // entry stays a valid `LocalPod` until the program ends.
    LOCAL_PODS.get_ptr(addr).map(|p| unsafe { &*p })
}

/// What kind of place this address is: a [`sluice_abi::network_kind`].
#[inline(always)]
pub fn network_kind(addr: &Addr) -> u32 {
    match NETWORKS.get(&Key::new(128, *addr)) {
        Some(network) => network.kind,
        None => sluice_abi::network_kind::OUTSIDE,
    }
}

/// The frontend with this key.
#[inline(always)]
pub fn frontend(key: &FrontendKey) -> Option<Frontend> {
    // SAFETY: copied at once; the map replaces entries instead of writing into them.
    FRONTENDS.get_ptr(key).map(|p| unsafe { *p })
}

/// The backend with this id.
#[inline(always)]
pub fn backend(id: u32) -> Option<Backend> {
    // SAFETY: as for `frontend`.
    BACKENDS.get_ptr(&id).map(|p| unsafe { *p })
}

/// The flow entry with this key, to read and to write single fields in place.
#[inline(always)]
pub fn flow(key: &FlowKey) -> Option<&'static mut FlowEntry> {
    // SAFETY: plain integers. Two CPUs may write `last_seen_ns` or `tcp` of one entry at a time;
    // either value is right. An evicted entry's memory stays a valid `FlowEntry`.
    CONNTRACK.get_ptr_mut(key).map(|p| unsafe { &mut *p })
}
