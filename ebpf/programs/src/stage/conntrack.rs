//! Flows: find, refresh, open. One flow is two entries that can rebuild each other (see
//! `sluice_abi::FlowKey`).

use sluice_abi::{
    DropReason, FlowEntry, FlowKey, FrontendKey, flow_flags, proto, tcp_state as state,
};
use sluice_packet::{Verdict, icmp, l4::Kind, lifetime, select, tcp_state};

use crate::{
    config, kernel,
    maps::{self, CONNTRACK},
    packet::{Packet, part},
};

/// An entry is touched, and its partner looked after, once in this time: often enough for every
/// limit in `lifetime`, rare enough to cost nothing.
const REFRESH_NS: u64 = 1_000_000_000;
/// Ports that are tried before a new flow is refused.
const ATTEMPTS: u32 = 16;
/// The attempt from which on ports of just closed connections are taken.
const URGENT_FROM: u32 = 10;
/// `BPF_NOEXIST`.
const NOEXIST: u64 = 1;
/// `EEXIST`, as helpers return it.
const EEXIST: i32 = -17;

/// Results of the functions that the verifier sees as functions of their own.
const OK: u32 = 0;
const TAKEN: u32 = 1;
const FULL: u32 = 2;

/// Looks the packet's flow up and leaves its translation in `p.out`. False: a new flow.
#[inline(always)]
pub fn find(p: &mut Packet) -> bool {
    if p.part == part::UNKNOWN {
        return false;
    }
    let Some(entry) = maps::flow(&p.key) else { return false };
    let opens = p.key.proto == proto::TCP && tcp_state::opens(p.tcp_flags);
    if opens && is_closed(entry) {
        return false;
    }
    // Datagrams move on when their backend is gone, and so do connections that never began.
    if entry.backend != 0
        && entry.flags & flow_flags::FORWARD != 0
        && (p.key.proto == proto::UDP || (opens && entry.tcp == state::SYN))
        && !still_serves(entry)
    {
        return false;
    }
    let now = kernel::now_ns();
    let refresh = now.wrapping_sub(entry.last_seen_ns) > REFRESH_NS;
    if refresh && became_service(p, entry) {
        return false;
    }
    p.now_ns = now;
    p.out = entry.translated;
    p.flow_flags = entry.flags;
    p.translate = u8::from(p.out != p.key);
    if p.key.proto == proto::TCP && p.part != part::LATER {
        let next = tcp_state::step(entry.tcp, p.tcp_flags);
        if next != entry.tcp {
            entry.tcp = next;
        }
    }
    if refresh {
        entry.last_seen_ns = now;
        p.entry = *entry;
        conntrack_rebuild_partner();
    }
    true
}

/// Whether answers to this connection, which nobody translates, would be taken for those of another
/// flow: one that the same client port had, or has, through a Service to the same backend.
/// Datagrams are not looked after: it would cost each of them a look-up.
#[inline(always)]
pub fn answers_are_anothers(p: &Packet) -> bool {
    p.key.proto == proto::TCP
        && tcp_state::opens(p.tcp_flags)
        && maps::flow(&p.key.reversed()).is_some()
}

/// Datagrams that left untranslated while their destination was no Service yet move on to its
/// backends.
#[inline(always)]
fn became_service(p: &Packet, entry: &FlowEntry) -> bool {
    p.key.proto == proto::UDP
        && entry.backend == 0
        && entry.flags & flow_flags::FORWARD != 0
        && maps::frontend(&FrontendKey {
            addr: p.key.dst,
            port: p.key.dport,
            proto: proto::UDP,
            pad: 0,
        })
        .is_some()
}

#[inline(always)]
fn is_closed(entry: &FlowEntry) -> bool {
    let there = match maps::flow(&entry.translated.reversed()) {
        Some(partner) => partner.tcp,
        None => state::FIN,
    };
    tcp_state::closed(entry.tcp, there)
}

#[inline(always)]
fn still_serves(entry: &FlowEntry) -> bool {
    match maps::backend(entry.backend) {
        Some(backend) => {
            backend.addr == entry.translated.dst && backend.port == entry.translated.dport
        }
        None => false,
    }
}

/// Puts the other direction back if the map's LRU took it. `p.entry` is the one that is there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_rebuild_partner() -> u32 {
    let Some(p) = maps::packet() else { return FULL };
    p.partner_key = p.out.reversed();
    if CONNTRACK.get_ptr(&p.partner_key).is_some() {
        return OK;
    }
    p.entry.translated = p.key.reversed();
    p.entry.flags ^= flow_flags::FORWARD;
    if p.entry.tcp == state::SYN {
        p.entry.tcp = 0;
    }
    // If another CPU was faster or the map is full, the next packet tries again.
    match CONNTRACK.insert(&p.partner_key, &p.entry, NOEXIST) {
        Ok(()) => OK,
        Err(_) => FULL,
    }
}

/// Opens the flow of `p.key` with the translation so far in `p.out`; with
/// [`flow_flags::SNAT`] in `p.flow_flags` the source becomes the node's address and a port that is
/// free. A tuple that another flow holds gets another source port as well.
#[inline(always)]
pub fn open() -> Result<(), Verdict> {
    match conntrack_open() {
        OK => Ok(()),
        TAKEN => Err(Verdict::Drop(DropReason::NoSnatPort)),
        _ => Err(Verdict::Drop(DropReason::ConntrackFull)),
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_open() -> u32 {
    let (Some(p), Some(node)) = (maps::packet(), config::node()) else { return FULL };
    p.now_ns = kernel::now_ns();
    let fresh = p.flow_flags & flow_flags::SNAT != 0;
    if fresh {
        p.out.src = node.addr(&p.key.src);
    }
    let is_request = p.part == part::LATER || p.l4[0] == icmp::ECHO_REQUEST;
    let has_port = p.kind == Kind::Tcp as u8
        || p.kind == Kind::Udp as u8
        || p.kind == Kind::Sctp as u8
        || (p.kind == Kind::Echo as u8 && is_request);
    let random = kernel::random();
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        if has_port && (fresh || attempt > 0) {
            p.out.sport =
                select::snat_port(node.snat_port_min, node.snat_port_max, random, attempt);
        }
        let claimed = conntrack_claim(u32::from(attempt >= URGENT_FROM));
        if claimed == OK {
            return record(p);
        }
        if claimed != TAKEN || !has_port {
            return claimed;
        }
        p.flow_flags |= flow_flags::SNAT;
        p.translate = 1;
        attempt += 1;
    }
    TAKEN
}

/// Writes the partner entry, by which replies come back, unless another living flow owns it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_claim(urgent: u32) -> u32 {
    let Some(p) = maps::packet() else { return FULL };
    p.partner_key = p.out.reversed();
    p.entry = FlowEntry {
        last_seen_ns: p.now_ns,
        translated: p.key.reversed(),
        backend: p.backend,
        flags: p.flow_flags & !flow_flags::FORWARD,
        ..FlowEntry::default()
    };
    match CONNTRACK.insert(&p.partner_key, &p.entry, NOEXIST) {
        Ok(()) => return OK,
        Err(EEXIST) => {}
        Err(_) => return FULL,
    }
    if let Some(holder) = maps::flow(&p.partner_key)
        && holder.translated != p.entry.translated
    {
        let forward: FlowKey = holder.translated.reversed();
        let (there, seen) = match maps::flow(&forward) {
            Some(other) => (other.tcp, other.last_seen_ns.max(holder.last_seen_ns)),
            None => (state::FIN, holder.last_seen_ns),
        };
        let limit = lifetime::limit_ns(p.key.proto, holder.tcp, there, urgent != 0);
        if p.now_ns.saturating_sub(seen) < limit {
            return TAKEN;
        }
        // Late packets of the old flow must not pass for the new one's.
        let _ = CONNTRACK.remove(&forward);
    }
    match CONNTRACK.insert(&p.partner_key, &p.entry, 0) {
        Ok(()) => OK,
        Err(_) => FULL,
    }
}

/// Writes the entry of the direction that the packet travels in.
#[inline(always)]
fn record(p: &mut Packet) -> u32 {
    p.flow_flags |= flow_flags::FORWARD;
    p.entry.translated = p.out;
    p.entry.flags = p.flow_flags;
    p.entry.tcp = if p.key.proto == proto::TCP { tcp_state::step(0, p.tcp_flags) } else { 0 };
    match CONNTRACK.insert(&p.key, &p.entry, 0) {
        Ok(()) => OK,
        Err(_) => FULL,
    }
}
