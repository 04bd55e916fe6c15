//! Policy verdicts for the pods of this node at the ends of a flow.
//!
//! ```text
//! known flow, judged since the last change of its pods ──────────────────────────────> allowed
//! else, for each pod of this node at an end:
//!   row of POD_POLICY ──none──> namespace open? ──no──> dropped
//!     │ rule table ──none──> allowed
//!     │ class of the other end ─> ports of {table, class} ──admit?──> allowed, or dropped
//! ```
//! The stage is called after translation and before each delivery, and returns the [`Judged`] that a
//! delivery requires. A flow is judged in the direction of its first packet: replies and ICMP errors are
//! allowed with it. The entry of a flow that is denied stays, so that no packet of it is taken for the
//! first of another one.

use sluice_abi::{
    Addr, Direction, DropReason, FlowEntry, FlowKey, PodRef, PolicyDirection, PolicyEnd,
    PolicyPeerKey, PolicyPorts, flow_flags, ports_kind,
};

use super::conntrack::work::{self, Key};
use super::{conntrack, fragment};
use crate::flow::{Flow, FlowState};
use crate::maps;
use crate::packet::Packet;
use crate::scratch::{PolicyInput, Scratch};
use crate::verdict::Verdict;

/// Proof of a policy verdict that allows the delivery of a packet. Only this module constructs it.
pub struct Judged(());

/// The pods of this node at the ends of a packet.
#[derive(Clone, Copy)]
pub struct Ends {
    /// The source, if it is a pod of this node. For a known flow its entry has the pod.
    pub source: PodRef,
    /// The destination after translation, if it is a pod of this node.
    pub destination: PodRef,
}

/// Result of the global functions: the flow is allowed.
const ALLOWED: u32 = 0;
/// Result of the global functions: the policies of a pod are not known.
const PENDING: u32 = DropReason::PolicyPending as u32;
/// Result of `policy_judge_flow`: the packet returns to the queue of its hook.
const WAITS: u32 = u32::MAX;
/// Result of `policy_judge_flow`: the first fragment of the packet's datagram has not arrived.
const ORPHAN: u32 = DropReason::FragmentUnknown as u32;

/// Judges a packet by the egress policies of the pod that opens its flow, and the ingress policies of
/// the pod that receives it. A new flow gets the epoch of its verdict; that of a known flow is stored.
#[inline(always)]
pub fn judge(s: &mut Scratch, ends: Ends) -> Result<Judged, Verdict> {
    let (flow, input) = (&mut s.flow, &mut s.policy_input);
    let entry = match flow.state {
        FlowState::Related => &mut s.quoted.entry,
        _ => &mut s.entry,
    };
    (input.client, input.server) = match (flow.state, flow.direction) {
        (FlowState::New | FlowState::Untracked, _) => (ends.source, ends.destination),
        (FlowState::Established, Direction::Forward) => (entry.client, ends.destination),
        (FlowState::Established, Direction::Reply) => (ends.destination, entry.server),
        (FlowState::Related, _) => (entry.client, entry.server),
    };
    let is_allowed = match flow.state {
        FlowState::Established => flow.is_judged,
        FlowState::Related => is_judged(entry),
        FlowState::New | FlowState::Untracked => input.client.is_none() && input.server.is_none(),
    };
    if is_allowed {
        return Ok(Judged(()));
    }
    match policy_judge_flow(&s.packet, flow, entry, input) {
        ALLOWED => Ok(Judged(())),
        WAITS => Err(Verdict::REQUEUE),
        n => Err(Verdict::Drop(drop_reason(n))),
    }
}

/// The body of [`judge`]. Returns [`ALLOWED`], [`WAITS`], or the number of a [`DropReason`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn policy_judge_flow(
    packet: *const Packet,
    flow: *mut Flow,
    entry: *mut FlowEntry,
    input: *mut PolicyInput,
) -> u32 {
    // SAFETY: the caller passes references; the verifier requires the checks for null.
    let (Some(packet), Some(flow), Some(entry), Some(input)) =
        (unsafe { (packet.as_ref(), flow.as_mut(), entry.as_mut(), input.as_mut()) })
    else {
        return PENDING;
    };
    let is_known = matches!(flow.state, FlowState::Established | FlowState::Related);
    if is_known {
        input_of_known(input, entry);
    } else {
        input_of_new(input, packet, flow);
    }
    let result = policy_judge(input);
    if result != ALLOWED {
        // The ports are those of the first fragment, which may follow.
        if packet.is_unresolved() && result != PENDING {
            return if fragment::may_wait(packet) { WAITS } else { ORPHAN };
        }
        return result;
    }
    if is_known {
        policy_record(packet, flow, entry, input.epoch);
    } else {
        flow.judged = input.epoch;
    }
    ALLOWED
}

#[inline(always)]
fn input_of_known(input: &mut PolicyInput, entry: &FlowEntry) {
    // The entry that an ICMP error leads to can be an alias.
    let (before, after) =
        if entry.is_alias() { (&entry.tuple, &entry.other) } else { (&entry.other, &entry.tuple) };
    input.tuple = *after;
    input.tuple.src = before.src;
    input.tuple.sport = before.sport;
    input.is_of_node = u32::from(entry.flags & flow_flags::OF_NODE != 0);
}

#[inline(always)]
fn input_of_new(input: &mut PolicyInput, packet: &Packet, flow: &Flow) {
    input.tuple = packet.tuple;
    input.tuple.dst = flow.translated.dst;
    input.tuple.dport = flow.translated.dport;
    input.is_of_node = u32::from(flow.is_of_node);
}

/// The drop reason of a result of [`policy_judge_flow`].
#[inline(always)]
fn drop_reason(n: u32) -> DropReason {
    const EGRESS: u32 = DropReason::PolicyEgress as u32;
    const INGRESS: u32 = DropReason::PolicyIngress as u32;
    match n {
        EGRESS => DropReason::PolicyEgress,
        INGRESS => DropReason::PolicyIngress,
        ORPHAN => DropReason::FragmentUnknown,
        _ => DropReason::PolicyPending,
    }
}

/// Whether a verdict of an epoch is later than the last change that affects a pod.
#[inline(always)]
fn is_current(judged: u32, pod: PodRef) -> bool {
    if pod.is_none() {
        return true;
    }
    let Some(row) = maps::pod_policy(pod) else { return is_open(pod) };
    // SAFETY: an array entry exists as long as the map. A comparison with a number that the agent
    // replaces has either result.
    let revision = unsafe { (*row).revision };
    judged.wrapping_sub(revision) as i32 >= 0
}

/// Whether no policy can select a pod, whose row has not been written.
#[inline(always)]
fn is_open(pod: PodRef) -> bool {
    policy_is_open(u32::from(pod.index), u32::from(pod.generation)) == 1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn policy_is_open(index: u32, generation: u32) -> u32 {
    let reference = PodRef { index: index as u16, generation: generation as u16 };
    let pod = maps::pod(reference);
    u32::from(pod.is_some_and(|pod| maps::is_open_namespace(pod.namespace())))
}

/// Whether a known flow has been judged since the last change that affects its pods.
#[inline(always)]
pub fn is_judged(entry: &FlowEntry) -> bool {
    is_current(entry.judged, entry.client) && is_current(entry.judged, entry.server)
}

/// Judges a flow. Returns [`ALLOWED`], or the number of a [`DropReason`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn policy_judge(input: *mut PolicyInput) -> u32 {
    // SAFETY: the caller passes a reference; the verifier requires the check for null.
    let Some(input) = (unsafe { input.as_mut() }) else { return PENDING };
    // Before the rows, which the agent writes before it.
    input.epoch = maps::policy_epoch();
    if !input.client.is_none() {
        let result = policy_judge_side(input, PolicyDirection::Egress as u32);
        if result != ALLOWED {
            return result;
        }
    }
    if input.server.is_none() || input.is_of_node == 1 {
        return ALLOWED;
    }
    policy_judge_side(input, PolicyDirection::Ingress as u32)
}

/// Judges a flow by the policies of one end in one [`PolicyDirection`]. Returns [`ALLOWED`], or the number
/// of a [`DropReason`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn policy_judge_side(input: *const PolicyInput, direction: u32) -> u32 {
    // SAFETY: as in `policy_judge`.
    let Some(input) = (unsafe { input.as_ref() }) else { return PENDING };
    let is_egress = direction == PolicyDirection::Egress as u32;
    let pod = if is_egress { input.client } else { input.server };
    let Some(row) = maps::pod_policy(pod) else {
        return if is_open(pod) { ALLOWED } else { PENDING };
    };
    // SAFETY: an array entry exists as long as the map. The agent changes the epoch after it has
    // changed a row, so that a verdict by a row that it is changing is not current.
    let end: PolicyEnd = unsafe { if is_egress { (*row).ends[0] } else { (*row).ends[1] } };
    if end.table == 0 {
        return ALLOWED;
    }
    let peer = if is_egress { &input.tuple.dst } else { &input.tuple.src };
    let class = policy_class(peer);
    let mut ports = end.otherwise;
    if class != 0
        && let Some(found) = maps::policy_ports(&PolicyPeerKey { table: end.table, class })
    {
        ports = found;
    }
    match policy_admits(&ports, &input.tuple) {
        0 if is_egress => DropReason::PolicyEgress as u32,
        0 => DropReason::PolicyIngress as u32,
        _ => ALLOWED,
    }
}

/// The class of an address; 0: no rule selects it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn policy_class(addr: *const Addr) -> u64 {
    // SAFETY: as in `policy_judge`. A copy: memory of an argument cannot be a key before Linux 6.4.
    let Some(addr) = (unsafe { addr.as_ref() }).copied() else { return 0 };
    maps::policy_class(&addr)
}

/// Returns 1 if ports contain the protocol and destination port of a tuple.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn policy_admits(ports: *const PolicyPorts, tuple: *const FlowKey) -> u32 {
    // SAFETY: as in `policy_judge`.
    let (Some(ports), Some(tuple)) = (unsafe { (ports.as_ref(), tuple.as_ref()) }) else {
        return 0;
    };
    let port = tuple.dport.get();
    let admits = match ports.kind {
        ports_kind::ALL => true,
        ports_kind::RANGE => {
            tuple.proto == ports.proto && port >= ports.first && port <= ports.last
        }
        ports_kind::SET => maps::is_in_port_set(ports.id, tuple.proto, tuple.dport),
        _ => false,
    };
    u32::from(admits)
}

/// Stores the epoch of the verdict that allows a known flow, and what its packet means for the flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn policy_record(
    packet: *const Packet,
    flow: *const Flow,
    entry: *mut FlowEntry,
    epoch: u32,
) -> u32 {
    // SAFETY: as in `policy_judge_flow`.
    let (Some(packet), Some(flow), Some(entry)) =
        (unsafe { (packet.as_ref(), flow.as_ref(), entry.as_mut()) })
    else {
        return 0;
    };
    // SAFETY: used in this function only.
    let Some(key) = (unsafe { work::key(Key::Judged) }) else { return 0 };
    key.sort(&entry.tuple);
    let main = match maps::any_flow(key) {
        Some(main) if !main.is_alias() && main.has_tuple(&entry.tuple) => main,
        // Judged again with the next packet.
        _ => return 0,
    };
    main.set_judged(epoch);
    if flow.state != FlowState::Established {
        return 1;
    }
    conntrack::apply(packet, main, entry, flow.direction);
    1
}
