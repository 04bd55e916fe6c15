//! The entry of a packet.

use sluice_abi::{FlowEntry, FlowKey};
use sluice_packet::Headers;

use super::track::{Effect, relate, track};
use super::{confirm, refresh, unusual};
use crate::flow::{Destination, Flow};
use crate::maps;
use crate::packet::Packet;

/// Result of [`find`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// An entry exists; flow and destination are set from it.
    Known,
    /// No entry exists, or its flow has ended, or the ports are unknown. The flow has no defined
    /// value.
    New,
    /// As [`Lookup::New`], and no table has an entry with the tuple of the packet.
    Absent,
    /// As [`Lookup::New`], and the packet has the tuple that another flow has after translation.
    Held,
    /// An entry exists, and the packet does not come from the source of its flow.
    Spoofed,
}

/// Looks up the flow of a packet, checks its source and refreshes its entry. `entry` becomes a copy
/// of it.
#[inline(always)]
pub fn find(
    packet: &Packet,
    headers: &Headers,
    entry: &mut FlowEntry,
    flow: &mut Flow,
    destination: &mut Destination,
) -> Lookup {
    if packet.is_unresolved() {
        return Lookup::New;
    }
    let mut key = FlowKey::default();
    key.sort(&packet.tuple);
    if let Some(found) = maps::confirmed_flow(&key) {
        flow.is_behind = false;
        // Of an alias only the fields that are needed are read. Another flow may have its memory by now: what
        // counts is the tuple in the copy of the main entry.
        let main = if found.is_alias() && found.has_tuple(&packet.tuple) {
            flow.is_behind = found.seen() != packet.tick;
            found.sort_other(&mut key);
            maps::confirmed_flow(&key)
        } else {
            Some(found)
        };
        if let Some(main) = main {
            main.copy(entry);
            if let Some(direction) = relate(packet, entry, flow) {
                let effect = track(packet, headers, main, entry, flow, destination, direction);
                if flow.is_behind && effect == Effect::None && flow.is_judged {
                    refresh::renew_alias(packet);
                }
                return move_entry(effect, entry);
            }
        }
    }
    let effect = unusual::find(packet, headers, entry, flow, destination);
    move_entry(effect, entry)
}

/// Moves an entry between the tables, after the search: the stack does not suffice for both.
#[inline(always)]
fn move_entry(effect: Effect, entry: &FlowEntry) -> Lookup {
    match effect {
        Effect::None => Lookup::Known,
        Effect::New => Lookup::New,
        Effect::Absent => Lookup::Absent,
        Effect::Held => Lookup::Held,
        Effect::Spoofed => Lookup::Spoofed,
        Effect::Answered => {
            confirm::confirm(entry);
            Lookup::Known
        }
        Effect::Closed => {
            confirm::retire(entry);
            Lookup::Known
        }
    }
}
