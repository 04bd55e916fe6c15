//! The maps of policies.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie};
use sluice_abi::{Addr, PodPolicy, PodRef, PolicyPeerKey, PolicyPortKey, PolicyPorts, PortBe, map};

/// The policies of the pods of this node, by index.
#[map]
static POD_POLICY: Array<PodPolicy> = Array::with_max_entries(map::LOCAL_PODS_MAX, 0);

/// Pods of the cluster as peers of policies.
#[map]
static POLICY_CLASSES: HashMap<Addr, u64> =
    HashMap::with_max_entries(map::POLICY_CLASSES_INITIAL, BPF_F_NO_PREALLOC);

/// Other peers of policies.
#[map]
static POLICY_NETWORKS: LpmTrie<Addr, u64> =
    LpmTrie::with_max_entries(map::POLICY_NETWORKS_MAX, BPF_F_NO_PREALLOC);

/// Ports by rule table and class of the peer.
#[map]
static POLICY_PEERS: HashMap<PolicyPeerKey, PolicyPorts> =
    HashMap::with_max_entries(map::POLICY_PEERS_INITIAL, BPF_F_NO_PREALLOC);

/// Sets of ports.
#[map]
static POLICY_PORTS: LpmTrie<PortOfSet, u32> =
    LpmTrie::with_max_entries(map::POLICY_PORTS_MAX, BPF_F_NO_PREALLOC);

/// A port of a set, in the order of [`sluice_abi::PolicyPortKey`].
#[repr(C)]
#[derive(Clone, Copy)]
struct PortOfSet {
    id: [u32; 2],
    pad: u8,
    proto: u8,
    port: PortBe,
}

/// Namespaces of whose pods no policy selects any.
#[map]
static OPEN_NAMESPACES: HashMap<u64, u32> =
    HashMap::with_max_entries(map::OPEN_NAMESPACES_MAX, BPF_F_NO_PREALLOC);

/// The number of the last change of policies.
#[map]
static POLICY_EPOCH: Array<u32> = Array::with_max_entries(1, 0);

/// The policies of a pod, if the agent has written them.
#[inline(always)]
pub fn pod_policy(reference: PodRef) -> Option<*const PodPolicy> {
    let row = POD_POLICY.get_ptr(u32::from(reference.index))?;
    // SAFETY: an array entry exists as long as the map.
    if unsafe { (*row).generation } == reference.generation { Some(row) } else { None }
}

/// The class of an address as a peer of policies; 0: no rule selects it.
#[inline(always)]
pub fn policy_class(addr: &Addr) -> u64 {
    if let Some(class) = POLICY_CLASSES.get_ptr(addr) {
        // SAFETY: as for `frontend`.
        return unsafe { *class };
    }
    POLICY_NETWORKS.get(&Key::new(128, *addr)).map_or(0, |class| *class)
}

/// The ports that a rule table admits for a class.
#[inline(always)]
pub fn policy_ports(key: &PolicyPeerKey) -> Option<PolicyPorts> {
    // SAFETY: as for `frontend`.
    POLICY_PEERS.get_ptr(key).map(|p| unsafe { *p })
}

/// Whether a set contains a port of a protocol.
#[inline(always)]
pub fn is_in_port_set(id: u64, proto: u8, port: PortBe) -> bool {
    const BITS: u32 = 8 * size_of::<PortOfSet>() as u32;
    let member = PortOfSet { id: PolicyPortKey::words(id), pad: 0, proto, port };
    POLICY_PORTS.get(&Key::new(BITS, member)).is_some_and(|is_member| *is_member == 1)
}

/// Whether no policy selects pods of the namespace with this id.
#[inline(always)]
pub fn is_open_namespace(id: u64) -> bool {
    id != 0 && OPEN_NAMESPACES.get_ptr(&id).is_some()
}

/// The number of the last change of policies.
#[inline(always)]
pub fn policy_epoch() -> u32 {
    // SAFETY: an array entry exists as long as the map.
    POLICY_EPOCH.get_ptr(0).map_or(0, |epoch| unsafe { core::ptr::read_volatile(epoch) })
}
