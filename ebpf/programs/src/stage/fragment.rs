//! Fragments: later fragments get the ports of the first.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap, PerCpuArray};
use sluice_abi::{DropReason, FlowEntry, FlowKind, FragmentKey, FragmentPorts, PodRef, map, ticks};
use sluice_packet::lifetime;

use crate::kernel;
use crate::maps::FRAGMENTS;
use crate::packet::{FragmentState, Packet};
use crate::verdict::Verdict;

/// Limit of waits of one datagram's fragments: the queue is run to its end before a fragment returns,
/// so that a first fragment that arrived together with it has passed.
const WAITS: u32 = 3;
/// Limit of waits per window and CPU, so that fragments without a first one do not occupy a CPU.
const WAITS_PER_WINDOW: u64 = 256;
/// Length of a window.
const WINDOW_NS: u64 = 10_000_000;

/// Waits of the present window.
#[repr(C)]
struct WaitWindow {
    since_ns: u64,
    waits: u64,
}

#[map]
static FRAGMENT_WINDOW: PerCpuArray<WaitWindow> = PerCpuArray::with_max_entries(1, 0);

/// Number of waits per datagram.
#[map]
static FRAGMENT_WAITS: LruHashMap<FragmentKey, u32> =
    LruHashMap::with_max_entries(map::FRAGMENTS_MAX, 0);

/// Ticks after the last packet of a flow to a Service for which its pod counts as a client of Services: no such flow
/// lives longer without packets, except TCP, whose senders avoid fragments.
const SERVICE_TICKS: u32 = ticks(lifetime::SCTP);

/// The last packet, at most one tick late, of a pod's flows to Services that keep their source, by index of the
/// pod: the pod's generation in the upper half, the tick in the lower one; 0: none. Replies to such a flow have the
/// pod's address before translation as well, and a later fragment does not show whether it is one.
#[map]
static SERVICE_CLIENTS: Array<u64> = Array::with_max_entries(map::LOCAL_PODS_MAX, 0);

/// Records that a pod of this node is the client of a flow, for [`may_be_translated`].
#[inline(always)]
pub fn record_client(entry: &FlowEntry) {
    if entry.kind == FlowKind::Service as u8 && !entry.client.is_none() {
        fragment_record_client(entry);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fragment_record_client(entry: *const FlowEntry) -> u32 {
    // SAFETY: as in `fragment_resolve_ports`.
    let Some(entry) = (unsafe { entry.as_ref() }) else { return 0 };
    let client = entry.client;
    let Some(last) = SERVICE_CLIENTS.get_ptr_mut(u32::from(client.index)) else { return 0 };
    // SAFETY: one integer, to which every CPU writes the same pod and time.
    unsafe { *last = (u64::from(client.generation) << 32) | u64::from(kernel::tick()) };
    1
}

/// Whether a later fragment to a pod of this node, whose first one has not arrived, may belong to a reply that is
/// translated: the pod is the client of a Service.
#[inline(always)]
pub fn may_be_translated(packet: &Packet, destination: &PodRef) -> bool {
    if !packet.is_unresolved() || destination.is_none() {
        return false;
    }
    let Some(last) = SERVICE_CLIENTS.get_ptr(u32::from(destination.index)) else { return false };
    // SAFETY: one integer.
    let last = unsafe { *last };
    // The row may be that of an earlier pod with this index.
    last >> 32 == u64::from(destination.generation)
        && kernel::tick().wrapping_sub(last as u32) <= SERVICE_TICKS
}

/// Records the ports of a first fragment and sets those of a later one. A later fragment whose
/// first one has not arrived remains [`FragmentState::Unresolved`].
#[inline(always)]
pub fn resolve_ports(packet: &mut Packet) {
    if packet.fragment != FragmentState::Whole {
        fragment_resolve_ports(packet);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fragment_resolve_ports(packet: *mut Packet) -> u32 {
    // SAFETY: the caller passes a reference; the verifier requires the check for null.
    let Some(packet) = (unsafe { packet.as_mut() }) else { return 0 };
    let key = packet.fragment_key();
    if packet.fragment == FragmentState::First {
        let ports = FragmentPorts { sport: packet.tuple.sport, dport: packet.tuple.dport };
        // A full map evicts the least recently used; a failed insert only affects this datagram.
        let _ = FRAGMENTS.insert(&key, ports, 0);
        let _ = FRAGMENT_WAITS.remove(&key);
        return 1;
    }
    let Some(ptr) = FRAGMENTS.get_ptr(&key) else { return 0 };
    // SAFETY: two ports, copied at once.
    let ports = unsafe { *ptr };
    packet.tuple.sport = ports.sport;
    packet.tuple.dport = ports.dport;
    packet.fragment = FragmentState::Later;
    1
}

/// Verdict for a later fragment whose ports are needed but unknown: it returns to the end of the
/// queue, where its first fragment may be, a limited number of times.
#[inline(always)]
pub fn wait(packet: &Packet) -> Verdict {
    if may_wait(packet) { Verdict::REQUEUE } else { Verdict::Drop(DropReason::FragmentUnknown) }
}

/// Counts a wait. False if the limit is reached.
#[inline(always)]
pub fn may_wait(packet: &Packet) -> bool {
    fragment_may_wait(packet) == 1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fragment_may_wait(packet: *const Packet) -> u32 {
    // SAFETY: as in `fragment_resolve_ports`.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    if !window_has_waits() {
        return 0;
    }
    let key = packet.fragment_key();
    if let Some(waits) = FRAGMENT_WAITS.get_ptr_mut(&key) {
        // SAFETY: one integer; of two concurrent increments one may be lost.
        unsafe {
            *waits += 1;
            return u32::from(*waits < WAITS);
        }
    }
    u32::from(FRAGMENT_WAITS.insert(&key, 1u32, 0).is_ok())
}

/// Counts a wait of this CPU. False if the limit of the window is reached.
#[inline(always)]
fn window_has_waits() -> bool {
    let Some(window) = FRAGMENT_WINDOW.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's entry, to which only this function has a reference.
    let window = unsafe { &mut *window };
    let now = kernel::now_ns();
    if now.wrapping_sub(window.since_ns) > WINDOW_NS {
        window.since_ns = now;
        window.waits = 0;
    }
    window.waits += 1;
    window.waits <= WAITS_PER_WINDOW
}
