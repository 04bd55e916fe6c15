//! Flow and destination of packets from the uplink.

use sluice_abi::{DropReason, FlowKind};
use sluice_packet::ip;
use sluice_packet::l4::Kind;

use crate::config::Node;
use crate::flow::{DestinationClass, FlowState, Origin};
use crate::handover;
use crate::packet::Packet;
use crate::scratch::Scratch;
use crate::stage::class;
use crate::stage::conntrack::{self, Lookup};
use crate::stage::outline::Outlined;
use crate::stage::{antispoof, fragment, icmp, masquerade, service};
use crate::verdict::{Bypass, Verdict};

/// Finds the flow of a packet from the uplink; returns its destination class.
#[inline(always)]
pub fn from_netdev<F: Outlined>(
    f: &F,
    s: &mut Scratch,
    node: Node,
) -> Result<DestinationClass, Verdict> {
    // Before any flow is affected, and before the ports of a first fragment become those of later ones.
    let is_recent = antispoof::is_recent_sender(&s.packet, &s.headers);
    let checked = check_addresses(f, s, is_recent)?;
    fragment::resolve_ports(&mut s.packet);
    s.flow.reset(&s.packet.tuple, Origin::Netdev);
    if s.packet.kind == Kind::IcmpError {
        return error_from_netdev(f, s, node);
    }
    flow_from_netdev(f, s, node, checked)
}

/// As [`from_netdev`], for packets other than ICMP errors; `is_recent` is the result of
/// [`antispoof::is_recent_sender`].
#[inline(always)]
pub fn packet_from_netdev<F: Outlined>(
    f: &F,
    s: &mut Scratch,
    node: Node,
    is_recent: bool,
) -> Result<DestinationClass, Verdict> {
    s.flow.reset(&s.packet.tuple, Origin::Netdev);
    let checked = check_addresses(f, s, is_recent)?;
    flow_from_netdev(f, s, node, checked)
}

/// Drops packets with a loopback address, which the stack would accept where `route_localnet` is set
/// (CVE-2020-8558).
#[inline(always)]
pub fn require_no_loopback(packet: &Packet) -> Result<(), Verdict> {
    if ip::is_loopback(&packet.tuple.dst) {
        return Err(Verdict::Drop(DropReason::Malformed));
    }
    if ip::is_loopback(&packet.tuple.src) {
        return Err(Verdict::Drop(DropReason::Spoofed));
    }
    Ok(())
}

/// Checks the addresses: that none is a loopback address, and the sender, unless it was accepted in this tick.
/// Returns the class of the source if it was determined.
#[inline(always)]
fn check_addresses<F: Outlined>(
    f: &F,
    s: &Scratch,
    is_recent: bool,
) -> Result<Option<DestinationClass>, Verdict> {
    require_no_loopback(&s.packet)?;
    if is_recent { Ok(None) } else { require_sender(f, s).map(Some) }
}

#[inline(always)]
fn flow_from_netdev<F: Outlined>(
    f: &F,
    s: &mut Scratch,
    node: Node,
    checked: Option<DestinationClass>,
) -> Result<DestinationClass, Verdict> {
    let found =
        conntrack::find(&s.packet, &s.headers, &mut s.entry, &mut s.flow, &mut s.destination);
    match found {
        Lookup::Known => return Ok(s.flow.class),
        Lookup::Spoofed => return Err(Verdict::Drop(DropReason::Spoofed)),
        Lookup::New | Lookup::Absent | Lookup::Held => {}
    }
    handover::require_no_flow_elsewhere(f, node)?;
    s.flow.reset(&s.packet.tuple, Origin::Netdev);
    s.flow.is_unknown = found == Lookup::Absent;
    antispoof::require_remote_address(&s.packet, node)?;
    s.flow.class = class::of(&s.packet.tuple.dst, &mut s.destination);
    let class = new_from_netdev(f, s, found == Lookup::Held)?;
    if class == DestinationClass::LocalPod || s.flow.state == FlowState::New {
        s.flow.source_class = match checked {
            Some(class) => class,
            None => require_sender(f, s)?,
        };
    }
    if s.flow.kind == FlowKind::ExternalClient && s.flow.source_class != DestinationClass::Outside {
        s.flow.kind = FlowKind::Direct;
    }
    Ok(class)
}

/// Drops packets whose source cannot be behind their sender. Those of a pod of another node to this
/// node are left to the stack. Returns the class of the source.
#[inline(always)]
fn require_sender<F: Outlined>(f: &F, s: &Scratch) -> Result<DestinationClass, Verdict> {
    let destination = &s.packet.tuple.dst;
    antispoof::check_sender(f, &s.packet, &s.headers).map_err(|class| {
        if class == DestinationClass::RemotePod
            && class::of_other(destination) == DestinationClass::Node
        {
            Verdict::Bypass(Bypass::NodeTraffic)
        } else {
            Verdict::Drop(DropReason::Spoofed)
        }
    })
}

/// An error reaches a pod only if it is about a flow.
#[inline(always)]
fn error_from_netdev<F: Outlined>(
    f: &F,
    s: &mut Scratch,
    node: Node,
) -> Result<DestinationClass, Verdict> {
    antispoof::require_remote_address(&s.packet, node)?;
    let known = icmp::find(f, s);
    if !known {
        handover::require_no_flow_elsewhere(f, node)?;
    }
    s.flow.class = class::of(&s.flow.translated.dst, &mut s.destination);
    match s.flow.class {
        _ if known => Ok(s.flow.class),
        DestinationClass::LocalPod => Err(Verdict::Drop(DropReason::NotTracked)),
        class => {
            // To a Service address.
            service::translate(f, &s.packet, &mut s.flow, &mut s.chosen)?;
            class.require_owner()?;
            Err(Verdict::Bypass(Bypass::NodeTraffic))
        }
    }
}

#[inline(always)]
fn new_from_netdev<F: Outlined>(
    f: &F,
    s: &mut Scratch,
    is_held: bool,
) -> Result<DestinationClass, Verdict> {
    let (packet, flow) = (&s.packet, &mut s.flow);
    if service::translate(f, packet, flow, &mut s.chosen)? {
        flow.class = class::of(&flow.translated.dst, &mut s.destination);
        // Replies have to return through this node. Those of pods of this node and of the node itself
        // do so anyway, and the stack takes no packet from an address of its own.
        if !flow.keeps_source && flow.class != DestinationClass::Node {
            flow.masquerade();
            masquerade::set_source(f, packet, flow, &mut s.next_hop);
        }
        return Ok(flow.class);
    }
    match flow.class {
        DestinationClass::LocalPod
            if fragment::may_be_translated(packet, &s.destination.reference) =>
        {
            Err(fragment::wait(packet))
        }
        DestinationClass::LocalPod => {
            if !packet.is_unresolved() {
                flow.track(FlowKind::ExternalClient);
            }
            Ok(flow.class)
        }
        DestinationClass::FreePodAddress | DestinationClass::ServiceRange => Ok(flow.class),
        // Possibly a reply to a masqueraded flow. At the limit of waits it is passed to the stack.
        DestinationClass::Node if packet.is_unresolved() && fragment::may_wait(packet) => {
            Err(Verdict::REQUEUE)
        }
        // The client uses one port for a NodePort and for its backend on the node: as a flow, this one
        // gets another port.
        DestinationClass::Node if is_held => {
            flow.track(FlowKind::Direct);
            Ok(flow.class)
        }
        DestinationClass::Node
        | DestinationClass::RemotePod
        | DestinationClass::OtherNode
        | DestinationClass::Outside
        | DestinationClass::Link => Err(Verdict::Bypass(Bypass::NodeTraffic)),
    }
}
