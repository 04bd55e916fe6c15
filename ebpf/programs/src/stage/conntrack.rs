//! Conntrack: finds, refreshes and opens flows. A flow has two entries that can rebuild each other
//! (see `sluice_abi::FlowKey`).

use aya_ebpf::{macros::map, maps::PerCpuArray};
use sluice_abi::{Direction, DropReason, FlowEntry, FlowKey, proto, tcp_state as state};
use sluice_packet::{lifetime, tcp_state};

use crate::{
    config,
    flow::{Flow, FlowState},
    kernel,
    maps::{self, CONNTRACK, FlowRef},
    packet::{FragmentState, Packet},
    verdict::Verdict,
};

/// Interval at which the time of an entry is updated and its reverse entry is checked: short
/// compared to all limits in `lifetime`, long enough to cost nothing per packet.
const REFRESH_NS: u64 = 1_000_000_000;
/// Number of source ports that are tried before a new flow is dropped.
const ATTEMPTS: u32 = 16;
/// First attempt that takes ports of recently closed connections.
const URGENT_FROM: u32 = 10;
/// `BPF_ANY`.
const ANY: u64 = 0;
/// `BPF_NOEXIST`.
const NOEXIST: u64 = 1;
/// `EEXIST`, as helpers return it.
const EEXIST: i32 = -17;

/// Results of the global functions.
const OK: u32 = 0;
const TAKEN: u32 = 1;
const FULL: u32 = 2;
/// Result of [`conntrack_reverse_tcp`] without an entry.
const NO_ENTRY: u32 = u32::MAX;

/// Result of [`find`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// An entry exists; the flow is set from it.
    Known,
    /// No entry exists, or its flow has ended, or the ports are unknown. The flow is unchanged.
    New,
}

/// Looks up the flow of a packet and refreshes its entry.
#[inline(always)]
pub fn find(packet: &Packet, flow: &mut Flow) -> Lookup {
    if packet.is_unresolved() {
        return Lookup::New;
    }
    let Some(entry) = maps::flow(&packet.tuple) else { return Lookup::New };
    let (Some(kind), Some(direction)) = (entry.kind(), entry.direction()) else {
        return Lookup::New;
    };
    if packet.is_syn() && is_closed(entry) {
        return Lookup::New;
    }
    let now = kernel::now_ns();
    let refresh = now.wrapping_sub(entry.last_seen_ns()) > REFRESH_NS;
    if direction == Direction::Forward && must_move(packet, entry, refresh) {
        return Lookup::New;
    }
    if packet.tuple.proto == proto::TCP && packet.fragment != FragmentState::Later {
        let (old, new) = (entry.tcp(), tcp_state::step(entry.tcp(), packet.tcp_flags));
        if new != old {
            entry.set_tcp(new);
        }
    }
    if refresh {
        entry.set_last_seen_ns(now);
        conntrack_rebuild(packet);
    }
    flow.translated = entry.translated();
    flow.backend = entry.backend();
    flow.kind = kind;
    flow.direction = direction;
    flow.state = FlowState::Established;
    Lookup::Known
}

/// Whether a flow needs a new decision: datagrams and connection attempts whose backend was
/// removed, and datagrams to an address that has become a Service (checked once per refresh).
#[inline(always)]
fn must_move(packet: &Packet, entry: FlowRef, refresh: bool) -> bool {
    let udp = packet.tuple.proto == proto::UDP;
    if entry.backend() != 0 {
        (udp || (packet.is_syn() && entry.tcp() == state::SYN)) && !backend_exists(entry)
    } else {
        let tuple = &packet.tuple;
        udp && refresh && maps::frontend(&tuple.dst, tuple.dport, proto::UDP).is_some()
    }
}

#[inline(always)]
fn backend_exists(entry: FlowRef) -> bool {
    let translated = entry.translated();
    match maps::backend(entry.backend()) {
        Some(backend) => backend.addr == translated.dst && backend.port == translated.dport,
        None => false,
    }
}

#[inline(always)]
fn is_closed(entry: FlowRef) -> bool {
    let reverse = conntrack_reverse_tcp(entry.translated_ptr());
    tcp_state::closed(entry.tcp(), if reverse == NO_ENTRY { state::FIN } else { reverse as u8 })
}

/// TCP state of the entry for packets in the opposite direction of a tuple, or [`NO_ENTRY`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_reverse_tcp(tuple: *const FlowKey) -> u32 {
    // SAFETY: the caller passes a tuple in a map entry or in a reference; the verifier requires the
    // check for null.
    let Some(tuple) = (unsafe { tuple.as_ref() }) else { return NO_ENTRY };
    match maps::flow(&tuple.reversed()) {
        Some(entry) => u32::from(entry.tcp()),
        None => NO_ENTRY,
    }
}

/// Whether replies to an untranslated TCP connection would match the entry of another flow: one
/// that the same client port has or had to the same backend by a Service. Not checked for
/// datagrams, each of which would need a lookup.
#[inline(always)]
pub fn reply_tuple_in_use(packet: &Packet) -> bool {
    packet.is_syn() && conntrack_reverse_tcp(&packet.tuple) != NO_ENTRY
}

/// Rebuilds the reverse of the packet's entry, if the map has evicted it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_rebuild(packet: *const Packet) -> u32 {
    // SAFETY: the caller passes a reference; the verifier requires the check for null.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return FULL };
    let key = packet.tuple;
    let Some(entry) = maps::flow(&key) else { return FULL };
    if conntrack_reverse_tcp(entry.translated_ptr()) != NO_ENTRY {
        return OK;
    }
    let Some(direction) = entry.direction() else { return FULL };
    // If another CPU was faster or the map is full, the next refresh tries again.
    insert(NOEXIST, |write| {
        write.key.reverse_of(&entry.translated());
        write.entry = entry.get();
        write.entry.translated.reverse_of(&packet.tuple);
        write.entry.direction = direction.reversed() as u8;
        if write.entry.tcp == state::SYN {
            write.entry.tcp = 0;
        }
    })
}

/// Writes both entries of a flow in the state [`FlowState::New`].
///
/// A masqueraded flow gets the node's address and a free port as source. Any other flow gets
/// another source port if a flow that is still alive holds the tuple of its replies.
#[inline(always)]
pub fn open(packet: &Packet, flow: &mut Flow) -> Result<(), Verdict> {
    if flow.state != FlowState::New {
        return Ok(());
    }
    match conntrack_open(packet, flow) {
        OK => Ok(()),
        TAKEN => Err(Verdict::Drop(DropReason::NoSnatPort)),
        _ => Err(Verdict::Drop(DropReason::ConntrackFull)),
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_open(packet: *const Packet, flow: *mut Flow) -> u32 {
    // SAFETY: as in `conntrack_rebuild`.
    let (Some(packet), Some(flow)) = (unsafe { (packet.as_ref(), flow.as_mut()) }) else {
        return FULL;
    };
    let Some(node) = config::node() else { return FULL };
    let masqueraded = flow.kind.is_masqueraded();
    if masqueraded {
        flow.translated.src = node.addr(&packet.tuple.src);
    }
    let has_port = packet.kind.has_source_port();
    let random = kernel::random();
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        if has_port && (masqueraded || attempt > 0) {
            flow.translated.sport = node.source_port(random, attempt);
        }
        let claimed = conntrack_claim(packet, flow, u32::from(attempt >= URGENT_FROM));
        if claimed == OK {
            return conntrack_write(packet, flow, Direction::Forward as u32, ANY);
        }
        if claimed != TAKEN || !has_port {
            return claimed;
        }
        attempt += 1;
    }
    TAKEN
}

/// Writes the reply entry, unless another flow that is still alive holds its key.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_claim(packet: *const Packet, flow: *const Flow, urgent: u32) -> u32 {
    let written = conntrack_write(packet, flow, Direction::Reply as u32, NOEXIST);
    if written != TAKEN {
        return written;
    }
    // SAFETY: as in `conntrack_rebuild`.
    let (Some(packet), Some(flow)) = (unsafe { (packet.as_ref(), flow.as_ref()) }) else {
        return FULL;
    };
    let key = flow.translated.reversed();
    if let Some(holder) = maps::flow(&key) {
        let forward = holder.translated().reversed();
        if forward != packet.tuple {
            let (there, seen) = match maps::flow(&forward) {
                Some(other) => (other.tcp(), other.last_seen_ns().max(holder.last_seen_ns())),
                None => (state::FIN, holder.last_seen_ns()),
            };
            let limit = lifetime::limit_ns(packet.tuple.proto, holder.tcp(), there, urgent != 0);
            if kernel::now_ns().saturating_sub(seen) < limit {
                return TAKEN;
            }
            // Late packets of the old flow must not be translated as packets of the new one.
            let _ = CONNTRACK.remove(&forward);
        }
    }
    conntrack_write(packet, flow, Direction::Reply as u32, ANY)
}

/// Writes one entry of a new flow. [`TAKEN`]: the key exists and `flags` is [`NOEXIST`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_write(
    packet: *const Packet,
    flow: *const Flow,
    direction: u32,
    flags: u64,
) -> u32 {
    // SAFETY: as in `conntrack_rebuild`.
    let (Some(packet), Some(flow)) = (unsafe { (packet.as_ref(), flow.as_ref()) }) else {
        return FULL;
    };
    insert(flags, |write| {
        write.entry.last_seen_ns = kernel::now_ns();
        write.entry.backend = flow.backend;
        write.entry.kind = flow.kind as u8;
        write.entry.direction = direction as u8;
        write.entry.tcp = 0;
        if direction == Direction::Forward as u32 {
            write.key = packet.tuple;
            write.entry.translated = flow.translated;
            if packet.tuple.proto == proto::TCP {
                write.entry.tcp = tcp_state::step(0, packet.tcp_flags);
            }
        } else {
            write.key.reverse_of(&flow.translated);
            write.entry.translated.reverse_of(&packet.tuple);
        }
    })
}

/// An entry and its key, while they are inserted: helpers of kernels before 6.4 accept neither from
/// an argument of a global function, and the stack is too small for both.
#[repr(C)]
struct EntryWrite {
    key: FlowKey,
    entry: FlowEntry,
}

#[map]
static ENTRY_WRITE: PerCpuArray<EntryWrite> = PerCpuArray::with_max_entries(1, 0);

/// Inserts an entry. `fill` sets it and must not insert another one.
#[inline(always)]
fn insert(flags: u64, fill: impl FnOnce(&mut EntryWrite)) -> u32 {
    let Some(write) = ENTRY_WRITE.get_ptr_mut(0) else { return FULL };
    // SAFETY: this CPU's entry. References to it exist only in this function, which `fill` does not
    // call.
    let write = unsafe { &mut *write };
    fill(write);
    match CONNTRACK.insert(&write.key, &write.entry, flags) {
        Ok(()) => OK,
        Err(EEXIST) => TAKEN,
        Err(_) => FULL,
    }
}
