//! Conntrack: finds, refreshes and opens flows. A flow has two entries that can rebuild each other
//! (see `sluice_abi::FlowKey`).

use sluice_abi::{Direction, DropReason, FlowEntry, FlowKey, proto, tcp_state as state};
use sluice_packet::{lifetime, tcp_state};

use crate::{
    config,
    flow::{Flow, FlowState},
    kernel,
    maps::{self, CONNTRACK, FlowRef},
    packet::{FragmentState, Packet},
    scratch::EntryWrite,
    verdict::Verdict,
};

/// Interval at which the time of an entry is updated and its reverse entry is checked: short
/// compared to all limits in `lifetime`, long enough to cost nothing per packet.
const REFRESH_NS: u64 = 1_000_000_000;
/// Number of source ports that are tried before a new flow is dropped.
const ATTEMPTS: u32 = 16;
/// First attempt that takes ports of recently closed connections.
const URGENT_FROM: u32 = 10;
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
pub fn find(packet: &Packet, flow: &mut Flow, write: &mut EntryWrite) -> Lookup {
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
        write.entry = entry.get();
        conntrack_rebuild(packet, write);
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

/// Rebuilds the reverse of `write.entry`, an entry with the packet's tuple as key, if the map has
/// evicted it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_rebuild(packet: *const Packet, write: *mut EntryWrite) -> u32 {
    // SAFETY: the caller passes references; the verifier requires the checks for null.
    let (Some(packet), Some(write)) = (unsafe { (packet.as_ref(), write.as_mut()) }) else {
        return FULL;
    };
    write.key = write.entry.translated.reversed();
    if maps::flow(&write.key).is_some() {
        return OK;
    }
    write.entry.translated = packet.tuple.reversed();
    if let Some(direction) = write.entry.direction() {
        write.entry.direction = direction.reversed() as u8;
    }
    if write.entry.tcp == state::SYN {
        write.entry.tcp = 0;
    }
    // If another CPU was faster or the map is full, the next refresh tries again.
    insert(write, NOEXIST)
}

/// Writes both entries of a flow in the state [`FlowState::New`].
///
/// A masqueraded flow gets the node's address and a free port as source. Any other flow gets
/// another source port if a flow that is still alive holds the tuple of its replies.
#[inline(always)]
pub fn open(packet: &Packet, flow: &mut Flow, write: &mut EntryWrite) -> Result<(), Verdict> {
    if flow.state != FlowState::New {
        return Ok(());
    }
    match conntrack_open(packet, flow, write) {
        OK => Ok(()),
        TAKEN => Err(Verdict::Drop(DropReason::NoSnatPort)),
        _ => Err(Verdict::Drop(DropReason::ConntrackFull)),
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_open(
    packet: *const Packet,
    flow: *mut Flow,
    write: *mut EntryWrite,
) -> u32 {
    // SAFETY: as in `conntrack_rebuild`.
    let (Some(packet), Some(flow), Some(write)) =
        (unsafe { (packet.as_ref(), flow.as_mut(), write.as_mut()) })
    else {
        return FULL;
    };
    let Some(node) = config::node() else { return FULL };
    let masqueraded = flow.kind.is_masqueraded();
    if masqueraded {
        flow.translated.src = node.addr(&packet.tuple.src);
    }
    let has_port = packet.kind.has_source_port();
    write.entry.last_seen_ns = kernel::now_ns();
    let random = kernel::random();
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        if has_port && (masqueraded || attempt > 0) {
            flow.translated.sport = node.source_port(random, attempt);
        }
        let claimed = conntrack_claim(packet, flow, write, u32::from(attempt >= URGENT_FROM));
        if claimed == OK {
            return record(packet, flow, write);
        }
        if claimed != TAKEN || !has_port {
            return claimed;
        }
        attempt += 1;
    }
    TAKEN
}

/// Writes the reply entry, unless another flow that is still alive holds its key. Expects the time
/// in `write.entry`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_claim(
    packet: *const Packet,
    flow: *const Flow,
    write: *mut EntryWrite,
    urgent: u32,
) -> u32 {
    // SAFETY: as in `conntrack_rebuild`.
    let (Some(packet), Some(flow), Some(write)) =
        (unsafe { (packet.as_ref(), flow.as_ref(), write.as_mut()) })
    else {
        return FULL;
    };
    write.key = flow.translated.reversed();
    write.entry = FlowEntry {
        last_seen_ns: write.entry.last_seen_ns,
        translated: packet.tuple.reversed(),
        backend: flow.backend,
        tcp: 0,
        kind: flow.kind as u8,
        direction: Direction::Reply as u8,
        pad: 0,
    };
    match CONNTRACK.insert(&write.key, &write.entry, NOEXIST) {
        Ok(()) => return OK,
        Err(EEXIST) => {}
        Err(_) => return FULL,
    }
    if let Some(holder) = maps::flow(&write.key) {
        let translated = holder.translated();
        if translated != write.entry.translated {
            let forward: FlowKey = translated.reversed();
            let (there, seen) = match maps::flow(&forward) {
                Some(other) => (other.tcp(), other.last_seen_ns().max(holder.last_seen_ns())),
                None => (state::FIN, holder.last_seen_ns()),
            };
            let limit = lifetime::limit_ns(packet.tuple.proto, holder.tcp(), there, urgent != 0);
            if write.entry.last_seen_ns.saturating_sub(seen) < limit {
                return TAKEN;
            }
            // Late packets of the old flow must not be translated as packets of the new one.
            let _ = CONNTRACK.remove(&forward);
        }
    }
    insert(write, 0)
}

/// Writes the entry of the packet's own direction.
#[inline(always)]
fn record(packet: &Packet, flow: &Flow, write: &mut EntryWrite) -> u32 {
    write.key = packet.tuple;
    write.entry.translated = flow.translated;
    write.entry.direction = Direction::Forward as u8;
    write.entry.tcp =
        if packet.tuple.proto == proto::TCP { tcp_state::step(0, packet.tcp_flags) } else { 0 };
    insert(write, 0)
}

#[inline(always)]
fn insert(write: &EntryWrite, flags: u64) -> u32 {
    match CONNTRACK.insert(&write.key, &write.entry, flags) {
        Ok(()) => OK,
        Err(_) => FULL,
    }
}
