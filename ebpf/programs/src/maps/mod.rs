//! The maps that user space shares, and typed access to them. Names and capacities are defined in
//! `sluice_abi::map`, layouts in `sluice_abi`.

mod flow;
mod pod;
mod policy;

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf};
use sluice_abi::{
    Addr, Affinity, AffinityKey, Backend, BackendRow, Counter, Device, FlowEntry, FlowKey,
    FragmentKey, FragmentPorts, Frontend, FrontendKey, HostPortKey, LocalPod, Network, NodeConfig,
    PodFlows, PodNetns, PortBe, ServicePort, SocketOrigins, UdpSocket, WILDCARD_PORT,
    WILDCARD_PROTO, device_flags, map, network_kind, program,
};

pub use self::flow::{FlowRef, any_flow, confirmed_flow, new_flow, new_flow_of, same_tuple};
pub use self::pod::{local_pod, pod};
pub use self::policy::{
    is_in_port_set, is_open_namespace, pod_policy, policy_class, policy_epoch, policy_ports,
};

/// The pods of this node by address.
#[map]
pub static LOCAL_PODS: HashMap<Addr, LocalPod> = HashMap::with_max_entries(map::LOCAL_PODS_MAX, 0);

/// The pods of this node by index.
#[map]
pub static PODS: Array<LocalPod> = Array::with_max_entries(map::LOCAL_PODS_MAX, 0);

/// What each pod of this node, and all other senders, may add to the flow tables.
#[map]
pub static POD_FLOWS: Array<PodFlows> = Array::with_max_entries(map::LOCAL_PODS_MAX, 0);

/// The networks of the cluster.
#[map]
pub static NETWORKS: LpmTrie<Addr, Network> =
    LpmTrie::with_max_entries(map::NETWORKS_MAX, BPF_F_NO_PREALLOC);

/// Service addresses and ports.
#[map]
pub static FRONTENDS: HashMap<FrontendKey, Frontend> =
    HashMap::with_max_entries(map::FRONTENDS_INITIAL, BPF_F_NO_PREALLOC);

/// Service ports by id.
#[map]
pub static SERVICES: HashMap<u32, ServicePort> =
    HashMap::with_max_entries(map::SERVICES_INITIAL, BPF_F_NO_PREALLOC);

/// Ranges of backend ids.
#[map]
pub static SLOTS: Array<u32> = Array::with_max_entries(map::SLOTS_INITIAL, 0);

/// Endpoints of Services by id.
#[map]
pub static BACKENDS: HashMap<u32, BackendRow> =
    HashMap::with_max_entries(map::BACKENDS_INITIAL, BPF_F_NO_PREALLOC);

/// Backends of the last connections of clients with session affinity.
#[map]
pub static AFFINITY: LruHashMap<AffinityKey, Affinity> =
    LruHashMap::with_max_entries(map::AFFINITY_MAX, 0);

/// Clients of load balancer addresses.
#[map]
static SOURCE_RANGES: LpmTrie<SourceOfService, u32> =
    LpmTrie::with_max_entries(map::SOURCE_RANGES_MAX, BPF_F_NO_PREALLOC);

/// Service port and client, in the order of [`sluice_abi::SourceRangeKey`].
#[repr(C)]
#[derive(Clone, Copy)]
struct SourceOfService {
    service: u32,
    addr: Addr,
}

/// The pods of this node by the cookie of their network namespace.
#[map]
static POD_NETNS: HashMap<u64, PodNetns> =
    HashMap::with_max_entries(map::LOCAL_PODS_MAX, BPF_F_NO_PREALLOC);

/// hostPorts of the pods of this node.
#[map]
static HOST_PORTS: HashMap<HostPortKey, Backend> =
    HashMap::with_max_entries(map::HOST_PORTS_MAX, BPF_F_NO_PREALLOC);

/// Flows that were answered and are not closed.
#[map]
pub static FLOWS: HashMap<FlowKey, FlowEntry> =
    HashMap::with_max_entries(map::FLOWS_MAX, BPF_F_NO_PREALLOC);

/// Other flows from pods and from the node.
#[map]
pub static FLOWS_NEW_POD: LruHashMap<FlowKey, FlowEntry> =
    LruHashMap::with_max_entries(map::FLOWS_NEW_POD_MAX, 0);

/// Other flows from the uplinks.
#[map]
pub static FLOWS_NEW_WIRE: LruHashMap<FlowKey, FlowEntry> =
    LruHashMap::with_max_entries(map::FLOWS_NEW_WIRE_MAX, 0);

/// Ports of fragmented datagrams.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> =
    LruHashMap::with_max_entries(map::FRAGMENTS_MAX, 0);

/// Original destinations of translated sockets.
#[btf_map]
pub static SOCKET_ORIGINS: SkStorage<SocketOrigins> = SkStorage::new();

/// Datagram sockets that were translated in connect(2), by their cookie.
#[map]
pub static UDP_SOCKETS: HashMap<u64, UdpSocket> =
    HashMap::with_max_entries(map::UDP_SOCKETS_MAX, BPF_F_NO_PREALLOC);

/// The node's configuration.
#[map]
pub static NODE_CONFIG: Array<NodeConfig> = Array::with_max_entries(1, 0);

/// The devices that packets leave by.
#[map]
pub static DEVICES: HashMap<u32, Device> =
    HashMap::with_max_entries(map::DEVICES_MAX, BPF_F_NO_PREALLOC);

/// The tc programs of the version that takes over.
#[map]
pub static SUCCESSORS: ProgramArray = ProgramArray::with_max_entries(program::TC.len() as u32, 0);

/// The tc programs of the version whose flows are taken over.
#[map]
pub static PREDECESSORS: ProgramArray = ProgramArray::with_max_entries(program::TC.len() as u32, 0);

/// Packets and bytes per drop reason and outcome.
#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(map::COUNTERS_MAX, 0);

/// Drop events.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(map::EVENTS_BYTES, 0);

/// Limits of a pod, by its index, or of flows without one ([`FlowEntry::account`]). Other CPUs access the entry
/// at the same time, so that a number can be wrong by the number of CPUs.
#[inline(always)]
pub fn pod_flows(index: u32) -> Option<*mut PodFlows> {
    POD_FLOWS.get_ptr_mut(index)
}

/// The device with this index.
#[inline(always)]
pub fn device(ifindex: u32) -> Option<Device> {
    // SAFETY: as for `frontend`.
    DEVICES.get_ptr(&ifindex).map(|p| unsafe { *p })
}

/// Whether frames of an interface have an Ethernet header.
#[inline(always)]
pub fn has_ethernet(ifindex: u32) -> bool {
    device(ifindex).is_none_or(|device| device.flags & device_flags::NO_ETHERNET == 0)
}

/// Whether an XDP program on one device can send packets out of the other: both have it, in the same
/// mode. Otherwise, the kernel could refuse the packet after the program has returned.
#[inline(always)]
pub fn are_redirectable(from: u32, to: u32) -> bool {
    let mode = |ifindex| device(ifindex).map_or(0, |device| device.flags & device_flags::XDP);
    mode(from) != 0 && mode(from) == mode(to)
}

/// The network of this address: a [`network_kind`].
#[inline(always)]
pub fn network_kind(addr: &Addr) -> u32 {
    match NETWORKS.get(&Key::new(128, *addr)) {
        Some(network) => network.kind,
        None => network_kind::OUTSIDE,
    }
}

/// Whether an address is one of this node.
#[inline(always)]
pub fn is_this_node(addr: &Addr) -> bool {
    matches!(
        network_kind(addr),
        network_kind::THIS_NODE | network_kind::THIS_NODE_WITHOUT_NODE_PORTS
    )
}

/// The frontend with exactly this address, port and protocol.
#[inline(always)]
pub fn frontend(addr: &Addr, port: PortBe, proto: u8) -> Option<Frontend> {
    frontend_of(&FrontendKey { addr: *addr, port, proto, pad: 0 })
}

/// The frontend with this key.
#[inline(always)]
pub fn frontend_of(key: &FrontendKey) -> Option<Frontend> {
    // SAFETY: copied at once; the map replaces entries instead of writing into them.
    FRONTENDS.get_ptr(key).map(|p| unsafe { *p })
}

/// The wildcard frontend of a Service address.
#[inline(always)]
pub fn wildcard_frontend(addr: &Addr) -> Option<Frontend> {
    frontend(addr, WILDCARD_PORT, WILDCARD_PROTO)
}

/// The Service port with this id.
#[inline(always)]
pub fn service_port(id: u32) -> Option<ServicePort> {
    // SAFETY: as for `frontend`.
    SERVICES.get_ptr(&id).map(|p| unsafe { *p })
}

/// Whether a client is in the source ranges of a Service port.
#[inline(always)]
pub fn is_in_source_ranges(service: u32, client: &Addr) -> bool {
    const BITS: u32 = 8 * size_of::<SourceOfService>() as u32;
    SOURCE_RANGES.get(&Key::new(BITS, SourceOfService { service, addr: *client })).is_some()
}

/// The address of the pod with this network namespace, of the family of `peer`.
#[inline(always)]
pub fn pod_in_netns(cookie: u64, peer: &Addr) -> Option<Addr> {
    // SAFETY: as for `local_pod`.
    let pod = POD_NETNS.get_ptr(&cookie).map(|pod| unsafe { *pod })?;
    let addr = if peer.is_v4() { pod.addrs[0] } else { pod.addrs[1] };
    if addr == Addr::UNSPECIFIED { None } else { Some(addr) }
}

/// The pod that has a hostPort.
#[inline(always)]
pub fn host_port(key: &HostPortKey) -> Option<*const Backend> {
    HOST_PORTS.get_ptr(key)
}

/// The backend with this id.
#[inline(always)]
pub fn backend(id: u32) -> Option<Backend> {
    // SAFETY: as for `frontend`.
    BACKENDS.get_ptr(&id).map(|p| unsafe { (*p).backend() })
}

/// The Service port of the backend with this id; 0 if it is not known.
#[inline(always)]
pub fn service_of_backend(id: u32) -> Option<u32> {
    // SAFETY: as for `frontend`.
    BACKENDS.get_ptr(&id).map(|p| unsafe { (*p).service })
}
