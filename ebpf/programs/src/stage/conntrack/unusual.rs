//! Packets whose entry is not in `FLOWS`, or not where it is expected.

use sluice_abi::{Direction, FlowEntry, flow_flags, proto, tcp_state as state};
use sluice_packet::{Headers, lifetime, tcp_state};

use super::track::{Effect, check_source, leads_to_main, relate, set_destination, track};
use super::work::{self, Key};
use crate::flow::{Destination, DestinationClass, Flow, FlowState};
use crate::maps::{self, same_tuple};
use crate::packet::Packet;

/// Looks up the flow of a packet in every table.
#[inline(always)]
pub fn find(
    packet: &Packet,
    headers: &Headers,
    entry: &mut FlowEntry,
    flow: &mut Flow,
    destination: &mut Destination,
) -> Effect {
    Effect::from_number(conntrack_find_unusual(packet, headers, entry, flow, destination))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_find_unusual(
    packet: *const Packet,
    headers: *const Headers,
    entry: *mut FlowEntry,
    flow: *mut Flow,
    destination: *mut Destination,
) -> u32 {
    // SAFETY: the caller passes references; the verifier requires the checks for null.
    let (Some(packet), Some(headers), Some(entry), Some(flow), Some(destination)) = (unsafe {
        (packet.as_ref(), headers.as_ref(), entry.as_mut(), flow.as_mut(), destination.as_mut())
    }) else {
        return Effect::New as u32;
    };
    search(packet, headers, entry, flow, destination) as u32
}

#[inline(always)]
fn search(
    packet: &Packet,
    headers: &Headers,
    entry: &mut FlowEntry,
    flow: &mut Flow,
    destination: &mut Destination,
) -> Effect {
    // SAFETY: used in this function only.
    let Some(key) = (unsafe { work::key(Key::Unusual) }) else { return Effect::New };
    key.sort(&packet.tuple);
    let mut found = maps::any_flow(key);
    let mut new = if found.is_none() { Effect::Absent } else { Effect::New };
    if let Some(holder) = found {
        holder.copy(entry);
        if !entry.is_alias()
            && same_tuple(&entry.tuple, &packet.tuple)
            && !same_tuple(&entry.other, &packet.tuple)
        {
            // The tuple is that of another flow after translation.
            found = None;
            if !lifetime::is_expired(entry, packet.tick) {
                new = Effect::Held;
            }
        }
    }
    let mut main = match found {
        Some(main) => main,
        None => {
            // The flow whose tuple this is may have ended before this one.
            *key = packet.tuple;
            key.shadow = 1;
            let Some(alias) = maps::any_flow(key) else { return new };
            if new == Effect::Absent {
                new = Effect::New;
            }
            alias.copy(entry);
            alias
        }
    };
    if leads_to_main(packet, entry) {
        key.sort(&entry.other);
        match maps::any_flow(key) {
            Some(found) => main = found,
            // A connection attempt chooses a backend again.
            None if packet.opens_connection() => return new,
            None => return reopen(packet, headers, entry, flow, destination),
        }
        main.copy(entry);
    }
    let Some(direction) = relate(packet, entry, flow) else { return new };
    flow.is_behind = false;
    match track(packet, headers, main, entry, flow, destination, direction) {
        Effect::None if flow.is_judged && is_answered(packet, entry, direction) => Effect::Answered,
        Effect::New => new,
        found => found,
    }
}

/// Continues the flow of an alias whose main entry is missing, with the same translation.
#[inline(always)]
fn reopen(
    packet: &Packet,
    headers: &Headers,
    entry: &FlowEntry,
    flow: &mut Flow,
    destination: &mut Destination,
) -> Effect {
    let Some(kind) = entry.kind() else { return Effect::New };
    // The packet has the tuple of the flow's first packet: it has to come from the same sender.
    if let Err(effect) = check_source(packet, headers, flow.origin, entry.client) {
        return effect;
    }
    if !set_destination(entry.server, entry.classes[0], flow, destination) {
        return Effect::New;
    }
    flow.source_class = DestinationClass::from_number(entry.classes[1]);
    flow.translated = entry.other;
    flow.client = entry.client;
    flow.backend = entry.backend;
    flow.kind = kind;
    flow.keeps_port = true;
    flow.is_of_node = entry.flags & flow_flags::OF_NODE != 0;
    flow.state = FlowState::New;
    Effect::None
}

/// Whether both sides have taken part: a reply or, because a reply to a forged SYN proves nothing,
/// what follows a TCP reply.
#[inline(always)]
fn is_answered(packet: &Packet, entry: &FlowEntry, direction: Direction) -> bool {
    if packet.tuple.proto != proto::TCP {
        return direction == Direction::Reply;
    }
    let [client, server] = entry.tcp;
    client >= state::OPEN && server >= state::SYN && !tcp_state::closed(client, server)
}
