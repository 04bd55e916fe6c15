//! New flows.
//!
//! The tuple after translation is claimed by inserting the main entry under a key that does not
//! exist yet, so that two CPUs never use one source port for two flows. An ended flow's entry is
//! removed by the CPU that has inserted its key into `FLOW_CLAIMS`.
//!
//! A lookup that finds a flow without reply protects its entry from eviction (`BPF_MAP_TYPE_LRU_HASH`). The first
//! attempts of a search for a port therefore do not look up the flows that the new one is inserted among: in a flood,
//! old flows would displace newer ones. Where an attempt does, it looks up both entries of a flow: otherwise main
//! entries, which hold ports, would displace aliases, until most ports are taken.

use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use sluice_abi::{Addr, DropReason, FlowEntry, FlowKey, PortBe, flow_flags, proto};
use sluice_packet::lifetime::{self, Scarcity};
use sluice_packet::{budget, tcp_state};

use super::confirm::{insert_alias, uncount, write_alias, write_main};
use super::insert::{FULL, NOEXIST, OK, TAKEN, Table, remove, remove_new};
use super::work::{self, Key};
use crate::flow::{Destination, DestinationClass, Flow, FlowState, Origin};
use crate::maps::{self, FlowRef, same_tuple};
use crate::packet::Packet;
use crate::stage::fragment;
use crate::stage::outline::Outlined;
use crate::verdict::Verdict;
use crate::{config, kernel};

/// Number of source ports that are tried before a new flow is dropped.
const ATTEMPTS: u32 = 24;
/// First attempt that takes ports of flows that have just ended ([`Scarcity::Ports`]), and those of ended flows
/// without reply.
const SCARCE_FROM: u32 = 4;
/// First attempt that takes ports of idle UDP streams as well ([`Scarcity::Severe`]).
const SEVERE_FROM: u32 = 12;
/// Result of the global functions: the pod has no tokens left.
const TOO_MANY: u32 = 3;
/// Result of the global functions: the source of a masqueraded flow is not known yet.
const NO_SOURCE: u32 = 4;

/// Keys of ended flows that a CPU is about to remove.
#[map]
static FLOW_CLAIMS: HashMap<FlowKey, u32> = HashMap::with_max_entries(1024, 0);

/// Writes the entries of a flow in the state [`FlowState::New`].
///
/// A masqueraded flow, whose source is an address of the node already, gets a free port. Any other flow gets
/// another source port if a flow that is still alive holds its tuple.
#[inline(always)]
pub fn open<F: Outlined>(
    f: &F,
    packet: &Packet,
    flow: &mut Flow,
    destination: &Destination,
) -> Result<(), Verdict> {
    if flow.state != FlowState::New {
        return Ok(());
    }
    // Behind the policies: what they deny is not answered.
    if flow.is_stray {
        return Err(Verdict::Reject(DropReason::NotTracked));
    }
    match f.open_flow(packet, flow, destination) {
        OK => Ok(()),
        TAKEN => Err(Verdict::Drop(DropReason::NoSnatPort)),
        TOO_MANY => Err(Verdict::Drop(DropReason::TooManyNewFlows)),
        NO_SOURCE => Err(Verdict::Drop(DropReason::NotReady)),
        _ => Err(Verdict::Drop(DropReason::ConntrackFull)),
    }
}

/// The body of [`open`].
#[inline(always)]
pub fn open_flow<F: Outlined>(
    f: &F,
    packet: &Packet,
    flow: &mut Flow,
    destination: &Destination,
) -> u32 {
    if flow.translated.src == Addr::UNSPECIFIED {
        return NO_SOURCE;
    }
    if !flow.is_unknown {
        conntrack_forget(packet);
    }
    if flow.origin == Origin::Pod && !take_token(flow) {
        return TOO_MANY;
    }
    let masqueraded = flow.kind.is_masqueraded();
    let is_to_node = flow.origin == Origin::Netdev
        && flow.class == DestinationClass::Node
        && flow.kind.is_service()
        && !flow.keeps_port;
    let has_port = packet.kind.has_source_port();
    let hash = if has_port { conntrack_hash(packet) } else { 0 };
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        let keeps_port = attempt == 0 && (flow.keeps_port || !masqueraded);
        if has_port && !keeps_port {
            flow.translated.sport = PortBe::new(conntrack_source_port(hash, attempt) as u16);
            if flow.translated.sport.get() == 0 {
                return TAKEN;
            }
        }
        let scarcity = u32::from(attempt >= SCARCE_FROM) + u32::from(attempt >= SEVERE_FROM);
        attempt += 1;
        let is_used = if masqueraded {
            f.node_uses(&flow.translated)
        } else {
            // A connection of the same client port to the backend itself, which has no flow.
            is_to_node && f.node_is_connected(&flow.translated)
        };
        if is_used {
            continue;
        }
        let searches = keeps_port
            || attempt > SCARCE_FROM
            // There is no other attempt.
            || !has_port
            // The flow may have lost the entry of its client alone, and the peer knows its port.
            || (attempt == 1 && packet.is_mid_stream());
        let claimed = conntrack_claim(packet, flow, destination, scarcity, u32::from(searches));
        if claimed != TAKEN || !has_port {
            return claimed;
        }
    }
    TAKEN
}

/// The hash that the choice of source ports starts from.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_hash(packet: *const Packet) -> u32 {
    // SAFETY: the caller passes a reference; the verifier requires the check for null.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 0 };
    config::node().map_or(0, |node| node.hash(&packet.tuple))
}

/// The source port of an attempt, in host order; 0: the node has no ports for translation.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_source_port(hash: u32, attempt: u32) -> u32 {
    let port = config::node().and_then(|node| node.source_port(hash, attempt));
    port.map_or(0, |port| u32::from(port.get()))
}

#[inline(always)]
fn take_token(flow: &Flow) -> bool {
    match maps::pod_flows(u32::from(flow.client.index)) {
        // SAFETY: see `confirm::limits_of`.
        Some(limits) => budget::take(unsafe { &mut *limits }, kernel::tick()),
        None => false,
    }
}

/// Removes what is left of an earlier flow with the packet's tuple.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_forget(packet: *const Packet) -> u32 {
    // SAFETY: the caller passes a reference; the verifier requires the check for null.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return FULL };
    let tuple = &packet.tuple;
    // SAFETY: neither key is used by the function that calls this one.
    let (Some(key), Some(main_key)) = (unsafe { (work::key(Key::Alias), work::key(Key::Main)) })
    else {
        return FULL;
    };
    key.sort(tuple);
    if let Some(found) = maps::any_flow(key) {
        if found.is_alias() {
            if found.has_tuple(tuple) {
                forget_alias(tuple, found, key, main_key);
                return OK;
            }
        } else if !found.is_translated() && (found.has_tuple(tuple) || found.is_closed()) {
            // The same flow without translation, or, if it is closed, one that the other side had opened.
            uncount(found.account(), remove(key));
            return OK;
        }
    }
    *key = *tuple;
    key.shadow = 1;
    if let Some(found) = maps::any_flow(key)
        && found.is_alias()
        && found.has_tuple(tuple)
    {
        forget_alias(tuple, found, key, main_key);
    }
    OK
}

/// Removes the alias of a flow with the packet's tuple, and its main entry.
#[inline(always)]
fn forget_alias(tuple: &FlowKey, alias: FlowRef, key: &FlowKey, main_key: &mut FlowKey) {
    alias.sort_other(main_key);
    if let Some(main) = maps::any_flow(main_key)
        && !main.is_alias()
        && main.has_other(tuple)
    {
        uncount(main.account(), remove(main_key));
    }
    uncount(alias.account(), remove(key));
}

/// Writes main entry and alias, unless another flow holds the tuple that is still alive, or that is one without
/// reply and the claim does not look for it (`searches` 0).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn conntrack_claim(
    packet: *const Packet,
    flow: *const Flow,
    destination: *const Destination,
    scarcity: u32,
    searches: u32,
) -> u32 {
    // SAFETY: as in `conntrack_forget`.
    let (Some(packet), Some(flow), Some(destination)) =
        (unsafe { (packet.as_ref(), flow.as_ref(), destination.as_ref()) })
    else {
        return FULL;
    };
    // SAFETY: `remove_ended` uses another key, and `write_alias` is called after the last use.
    let Some(key) = (unsafe { work::key(Key::Main) }) else { return FULL };
    key.sort(&flow.translated);
    let is_new = searches != 0 && maps::new_flow(key).is_some();
    if is_new || maps::confirmed_flow(key).is_some() {
        // The lookup precedes the claim, which is rarely needed; its result may be outdated.
        if FLOW_CLAIMS.insert(&*key, &0u32, NOEXIST).is_err() {
            return TAKEN;
        }
        let is_free = remove_ended(packet, key, Scarcity::from_number(scarcity));
        let _ = FLOW_CLAIMS.remove(&*key);
        if !is_free {
            // SAFETY: `remove_ended`, which has copied the holder, has returned.
            if is_new && let Some(holder) = unsafe { work::holder() } {
                protect_other_entry(holder);
            }
            return TAKEN;
        }
    }
    // SAFETY: `remove_ended`, the only other user, has returned.
    let Some(entry) = (unsafe { work::holder() }) else { return FULL };
    fill(entry, packet, flow, destination);
    let table = Table::of_new(entry);
    if searches == 0
        && let Some(holder) = maps::new_flow_of(table != Table::NewPod, key)
    {
        holder.copy(entry);
        protect_other_entry(entry);
        return TAKEN;
    }
    let inserted = write_main(table, NOEXIST, entry);
    if inserted != OK {
        return inserted;
    }
    // Another CPU may have confirmed a flow with this tuple since the lookup.
    if maps::confirmed_flow(key).is_some() {
        remove_new(key);
        return TAKEN;
    }
    if same_tuple(&flow.translated, &packet.tuple) || write_new_alias(table, entry, flow) == OK {
        fragment::record_client(entry);
        return OK;
    }
    remove_new(key);
    FULL
}

/// Protects the other entry of a flow without reply from eviction, after a lookup has found, and so protected, this one.
#[inline(always)]
fn protect_other_entry(found: &FlowEntry) {
    // SAFETY: the caller returns without another use.
    if let Some(other) = unsafe { work::key(Key::Alias) } {
        other.sort(&found.other);
        let _ = maps::new_flow(other);
    }
}

/// Writes the alias of a new flow.
#[inline(always)]
fn write_new_alias(table: Table, entry: &FlowEntry, flow: &Flow) -> u32 {
    if flow.is_unknown
        // SAFETY: `write_alias` is called after the last use.
        && let Some(key) = (unsafe { work::key(Key::Alias) })
    {
        key.sort(&entry.other);
        // Another CPU may have inserted the key since the lookup.
        if insert_alias(table, NOEXIST, key, entry) == OK {
            return OK;
        }
    }
    write_alias(table, entry)
}

/// Removes the flow that holds a key, if it has ended or is the packet's own. False: it is alive.
#[inline(always)]
fn remove_ended(packet: &Packet, key: &FlowKey, scarcity: Scarcity) -> bool {
    let Some(holder) = maps::any_flow(key) else { return true };
    // SAFETY: used in this function and, after it, in its caller.
    let Some(entry) = (unsafe { work::holder() }) else { return false };
    holder.copy(entry);
    if entry.is_alias() {
        return false;
    }
    if !same_tuple(&entry.other, &packet.tuple) {
        if !lifetime::is_reusable(entry, kernel::tick(), scarcity) {
            return false;
        }
        // SAFETY: the caller uses another key.
        let Some(alias) = (unsafe { work::key(Key::Alias) }) else { return false };
        alias.sort(&entry.other);
        // Late packets of the old flow must not be translated as packets of the new one.
        if let Some(found) = maps::any_flow(alias)
            && found.is_alias()
            && found.has_other(&entry.tuple)
        {
            uncount(entry.account(), remove(alias));
        }
    }
    uncount(entry.account(), remove(key));
    true
}

/// Sets the main entry of a new flow.
#[inline(always)]
fn fill(entry: &mut FlowEntry, packet: &Packet, flow: &Flow, destination: &Destination) {
    let now = kernel::tick();
    entry.tuple = flow.translated;
    entry.other = packet.tuple;
    entry.seen = now;
    entry.backend = flow.backend;
    entry.client = flow.client;
    entry.server = destination.reference;
    entry.since = now as u16;
    entry.tcp = [0; 2];
    if packet.tuple.proto == proto::TCP {
        entry.tcp[0] = tcp_state::step(0, packet.tcp_flags);
    }
    entry.classes = [flow.class as u8, flow.source_class as u8];
    entry.kind = flow.kind as u8;
    entry.flags = if flow.is_of_node { flow_flags::OF_NODE } else { 0 };
    entry.judged = flow.judged;
}

impl FlowRef {
    #[inline(always)]
    fn is_closed(self) -> bool {
        let [client, server] = self.tcp();
        tcp_state::closed(client, server)
    }
}
