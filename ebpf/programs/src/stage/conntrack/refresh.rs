//! What is done once per tick and flow.

use sluice_abi::{Direction, FlowEntry, FlowKind, FrontendKey, flow_flags, proto};
use sluice_packet::lifetime;

use super::confirm::{alias_key, write_alias};
use super::insert::Table;
use super::work::{self, Key};
use crate::flow::{Destination, DestinationClass, Flow};
use crate::maps::{self, FlowRef};
use crate::packet::Packet;
use crate::stage::backend;
use crate::stage::class;
use crate::stage::fragment;

/// Result of the global function: the flow goes on.
const GOES_ON: u32 = 1;
/// Result of the global function: the packet starts a new flow.
const ENDED: u32 = 0;

/// Updates time and destination class of an entry, and writes a missing alias. False: the flow is
/// expired, its destination leads to another Service, or its translated source is not this node's.
#[inline(always)]
pub fn refresh(
    packet: &Packet,
    main: FlowRef,
    entry: &mut FlowEntry,
    flow: &mut Flow,
    destination: &mut Destination,
    direction: Direction,
) -> bool {
    flow.direction = direction;
    conntrack_refresh(packet, main.as_ptr(), entry, flow, destination) == GOES_ON
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_refresh(
    packet: *const Packet,
    main: *mut FlowEntry,
    entry: *mut FlowEntry,
    flow: *mut Flow,
    destination: *mut Destination,
) -> u32 {
    // SAFETY: the caller passes references, and a map entry, which remains valid memory; the
    // verifier requires the checks for null.
    let (Some(packet), Some(main), Some(entry), Some(flow), Some(destination)) = (unsafe {
        (packet.as_ref(), main.as_mut(), entry.as_mut(), flow.as_mut(), destination.as_mut())
    }) else {
        return ENDED;
    };
    let now = packet.tick;
    if lifetime::is_expired(entry, now)
        || leads_elsewhere(packet, entry, flow)
        || has_lost_source(entry, flow)
    {
        return ENDED;
    }
    // Packets that policies may drop do not keep a flow alive.
    if flow.is_judged {
        entry.seen = now;
        main.seen = now;
        if entry.is_replied() && lifetime::is_stream(entry.since, now) {
            entry.flags |= flow_flags::STREAM;
            main.flags = entry.flags;
        }
    }
    // Replies of a flow that the stack has forwarded return through it, whatever their destination.
    let returns = flow.direction == Direction::Reply && entry.kind == FlowKind::ViaStack as u8;
    if destination.reference.is_none() && !returns {
        // Memory of an argument cannot be a key before Linux 6.4.
        // SAFETY: `leads_elsewhere`, the other user, has returned.
        let Some(key) = (unsafe { work::frontend_key() }) else { return ENDED };
        key.addr = flow.translated.dst;
        flow.class = class::of(&key.addr, destination);
        // A pod that has got the address since.
        flow.is_judged &= destination.reference.is_none();
        let class = flow.class as u8;
        match flow.direction {
            Direction::Forward => {
                main.classes[0] = class;
                main.server = destination.reference;
            }
            Direction::Reply => {
                main.classes[1] = class;
                main.client = destination.reference;
            }
        }
    }
    if entry.is_translated() {
        fragment::record_client(entry);
        keep_alias(entry);
    }
    GOES_ON
}

/// Whether a datagram's destination has become a Service since its flow began, or is that of another
/// Service than the one that the flow's backend belongs to, or of none any more.
#[inline(always)]
fn leads_elsewhere(packet: &Packet, entry: &FlowEntry, flow: &Flow) -> bool {
    let tuple = &packet.tuple;
    if tuple.proto != proto::UDP || flow.direction != Direction::Forward {
        return false;
    }
    let is_service = entry.backend != 0;
    let class = DestinationClass::from_number(entry.classes[0]);
    if !is_service && (!entry.server.is_none() || !class.may_be_service()) {
        return false;
    }
    // SAFETY: used in this function only.
    let Some(key) = (unsafe { work::frontend_key() }) else { return false };
    *key = FrontendKey { addr: tuple.dst, port: tuple.dport, proto: proto::UDP, pad: 0 };
    let mut frontend = maps::frontend_of(key);
    if frontend.is_none() && (is_service || class == DestinationClass::Node) {
        frontend = backend::of_node_by(key, &tuple.dst);
    }
    if !is_service && frontend.is_some_and(backend::is_host_port) {
        return true;
    }
    let service = frontend.map_or(0, |frontend| frontend.service);
    // The row of a backend from a version without Service ports has Service port 0.
    match maps::service_of_backend(entry.backend) {
        Some(owner) => owner != service && owner != 0,
        None => service != 0,
    }
}

/// Whether this node has lost the address that is the source of a masqueraded flow, so that no reply arrives.
/// A connection cannot continue from another address: its ends close it.
#[inline(always)]
fn has_lost_source(entry: &FlowEntry, flow: &Flow) -> bool {
    flow.direction == Direction::Forward
        && !matches!(entry.tuple.proto, proto::TCP | proto::SCTP)
        && entry.kind().is_some_and(FlowKind::is_masqueraded)
        && class::of_other(&entry.tuple.src) != DestinationClass::Node
}

/// Records in the alias of a flow that a packet before translation was tracked in this tick.
#[inline(always)]
pub fn renew_alias(packet: &Packet) {
    conntrack_renew_alias(packet);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_renew_alias(packet: *const Packet) -> u32 {
    // SAFETY: see `conntrack_refresh`.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    // SAFETY: used in this function only, which calls no other one.
    let Some(key) = (unsafe { work::key(Key::Alias) }) else { return 0 };
    key.sort(&packet.tuple);
    if let Some(alias) = maps::confirmed_flow(key)
        && alias.is_alias()
        && alias.has_tuple(&packet.tuple)
    {
        alias.set_seen(packet.tick);
    }
    0
}

/// Writes the alias of a translated flow if it is missing.
#[inline(always)]
fn keep_alias(entry: &FlowEntry) {
    if alias_key(entry).is_none_or(|key| maps::any_flow(key).is_some()) {
        return;
    }
    // SAFETY: used in this function only, which the functions of `confirm` and `open` do not call.
    let Some(key) = (unsafe { work::key(Key::Main) }) else { return };
    // The key may be free because the flow that has it lost its entry, which it writes again.
    *key = entry.other;
    key.shadow = 1;
    if maps::any_flow(key).is_some() {
        return;
    }
    key.sort(&entry.tuple);
    let is_confirmed = maps::confirmed_flow(key).is_some();
    let table = if is_confirmed { Table::Confirmed } else { Table::of_new(entry) };
    // If the table is full, the next refresh tries again.
    write_alias(table, entry);
}
