//! What a packet means for the entry of its flow.

use sluice_abi::{Direction, FlowEntry, PodRef, flow_flags, proto, tcp_state as state};
use sluice_packet::{Headers, lifetime, tcp_state};

use super::refresh;
use crate::flow::{Destination, DestinationClass, Flow, FlowState, Origin};
use crate::maps::{self, FlowRef, same_tuple};
use crate::packet::{FragmentState, Packet};
use crate::stage::policy;

/// What a packet means for the entry of its flow. The numbers are results of a global function.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Effect {
    /// [`super::Lookup::Known`], and the entry is up to date.
    None = 0,
    /// [`super::Lookup::New`].
    New = 1,
    /// [`super::Lookup::Spoofed`].
    Spoofed = 2,
    /// [`super::Lookup::Known`]; the flow is to be confirmed.
    Answered = 3,
    /// [`super::Lookup::Known`]; the flow is to be retired.
    Closed = 4,
    /// [`super::Lookup::Held`].
    Held = 5,
    /// [`super::Lookup::Absent`].
    Absent = 6,
}

impl Effect {
    /// From the number that a global function has returned.
    #[inline(always)]
    pub fn from_number(n: u32) -> Effect {
        match n {
            0 => Effect::None,
            2 => Effect::Spoofed,
            3 => Effect::Answered,
            4 => Effect::Closed,
            5 => Effect::Held,
            6 => Effect::Absent,
            _ => Effect::New,
        }
    }
}

/// Whether an entry is the alias of the packet's flow. [`super::find`] asks the entry in the map the same.
#[inline(always)]
pub fn leads_to_main(packet: &Packet, entry: &FlowEntry) -> bool {
    entry.is_alias() && same_tuple(&entry.tuple, &packet.tuple)
}

/// The direction of a packet in the flow of a main entry; sets the tuple after translation. `None`:
/// the packet does not belong to the flow.
#[inline(always)]
pub fn relate(packet: &Packet, entry: &FlowEntry, flow: &mut Flow) -> Option<Direction> {
    if entry.is_alias() {
        return None;
    }
    if same_tuple(&entry.other, &packet.tuple) {
        flow.translated = entry.tuple;
        return Some(Direction::Forward);
    }
    if packet.tuple.is_reverse_of(&entry.tuple) {
        flow.translated.reverse_of(&entry.other);
        return Some(Direction::Reply);
    }
    None
}

/// Applies a packet to the main entry of its flow.
#[inline(always)]
pub fn track(
    packet: &Packet,
    headers: &Headers,
    main: FlowRef,
    entry: &mut FlowEntry,
    flow: &mut Flow,
    destination: &mut Destination,
    direction: Direction,
) -> Effect {
    flow.is_judged = policy::is_judged(entry);
    let Some(kind) = entry.kind() else { return Effect::New };
    let (source, target, class) = match direction {
        Direction::Forward => (entry.client, entry.server, entry.classes[0]),
        Direction::Reply => (entry.server, entry.client, entry.classes[1]),
    };
    // Both ends before any change: a packet of another sender must not affect the flow, and a pod
    // that has the address of a removed one must not continue its flows.
    if let Err(effect) = check_source(packet, headers, flow.origin, source) {
        return effect;
    }
    if !set_destination(target, class, flow, destination) {
        return Effect::New;
    }
    if packet.is_syn() && tcp_state::closed(entry.tcp[0], entry.tcp[1]) {
        return Effect::New;
    }
    let lost_backend = direction == Direction::Forward && lost_backend(packet, entry);
    if lost_backend && is_movable(packet, entry) {
        return Effect::New;
    }
    // A SYN or INIT that is repeated until the flow is idle must not renew its time.
    if !lost_backend
        && (packet.tick != entry.seen || flow.is_behind)
        && !refresh::refresh(packet, main, entry, flow, destination, direction)
    {
        return Effect::New;
    }
    flow.backend = entry.backend;
    flow.kind = kind;
    flow.direction = direction;
    flow.state = FlowState::Established;
    if !flow.is_judged {
        // A packet that policies may drop changes nothing; else `policy::judge` does it.
        return Effect::None;
    }
    if apply(packet, main, entry, direction) { Effect::Closed } else { Effect::None }
}

/// Records in the main entry of a flow what a packet means for it. Returns whether the packet closes the
/// flow.
#[inline(always)]
pub fn apply(packet: &Packet, main: FlowRef, entry: &mut FlowEntry, direction: Direction) -> bool {
    if direction == Direction::Reply && !entry.is_replied() {
        entry.flags |= flow_flags::REPLIED;
        main.set_flags(entry.flags);
    }
    packet.tuple.proto == proto::TCP
        && packet.fragment != FragmentState::Later
        && step_tcp(packet, main, entry, direction)
}

/// Whether a packet comes from this source of its flow.
///
/// # Errors
/// It is spoofed, or the pod was removed.
#[inline(always)]
pub fn check_source(
    packet: &Packet,
    headers: &Headers,
    origin: Origin,
    source: PodRef,
) -> Result<(), Effect> {
    match origin {
        Origin::Pod => match maps::pod(source) {
            Some(pod) if pod.sends(packet.ifindex, headers.link.source()) => Ok(()),
            Some(_) => Err(Effect::Spoofed),
            None => Err(Effect::New),
        },
        Origin::Netdev if !source.is_none() => Err(Effect::Spoofed),
        Origin::Netdev | Origin::Stack => Ok(()),
    }
}

/// Sets the destination of a packet: a pod, or a class of other addresses. False: the pod was removed.
#[inline(always)]
pub fn set_destination(
    target: PodRef,
    class: u8,
    flow: &mut Flow,
    destination: &mut Destination,
) -> bool {
    if target.is_none() {
        flow.class = DestinationClass::from_number(class);
    } else {
        let Some(pod) = maps::pod(target) else { return false };
        pod.copy(&mut destination.pod);
        flow.class = DestinationClass::LocalPod;
    }
    destination.reference = target;
    true
}

/// Whether the backend of a flow was removed from its Service, for packets that can move to another one:
/// datagrams, and those that open a connection.
#[inline(always)]
fn lost_backend(packet: &Packet, entry: &FlowEntry) -> bool {
    if entry.backend == 0 || (packet.tuple.proto != proto::UDP && !packet.opens_connection()) {
        return false;
    }
    match maps::backend(entry.backend) {
        Some(backend) => backend.addr != entry.tuple.dst || backend.port != entry.tuple.dport,
        None => true,
    }
}

/// Whether a packet whose flow has [lost its backend](lost_backend) moves to another one. A SYN or INIT of an
/// established connection can be a late duplicate, unless the connection is idle: the port is used again.
#[inline(always)]
fn is_movable(packet: &Packet, entry: &FlowEntry) -> bool {
    let is_attempt = match packet.tuple.proto {
        proto::UDP => true,
        proto::SCTP => !entry.is_replied(),
        _ => entry.tcp[Direction::Forward as usize] == state::SYN,
    };
    is_attempt || lifetime::idle(entry, packet.tick) > lifetime::SYN_MOVES
}

/// Updates the state of one side of a TCP connection. Returns whether the packet closes it.
#[inline(always)]
fn step_tcp(packet: &Packet, main: FlowRef, entry: &mut FlowEntry, direction: Direction) -> bool {
    let old = match direction {
        Direction::Forward => entry.tcp[0],
        Direction::Reply => entry.tcp[1],
    };
    let new = tcp_state::step(old, packet.tcp_flags);
    if new == old {
        return false;
    }
    let was_closed = tcp_state::closed(entry.tcp[0], entry.tcp[1]);
    match direction {
        Direction::Forward => entry.tcp[0] = new,
        Direction::Reply => entry.tcp[1] = new,
    }
    main.set_tcp(direction, new);
    !was_closed && tcp_state::closed(entry.tcp[0], entry.tcp[1])
}
