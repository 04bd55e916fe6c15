//! Services: destination translation of new flows.
//!
//! ```text
//! destination                 frontends, in this order
//! Service range, outside      exact, wildcard of the address
//! this node                   exact, NodePort, hostPort
//! another node                exact
//! pods, link-local            none
//! ```
//! The wildcard of an external address, which may also be that of a host, applies only to packets from
//! the wire: it prevents routing loops between this node and a router that sends the address here.

use sluice_abi::{Addr, DropReason, Frontend, frontend_flags, proto};

use crate::flow::{DestinationClass, Flow, Origin};
use crate::packet::Packet;
use crate::stage::backend::{self, Choice, Chosen, Request};
use crate::stage::fragment;
use crate::stage::outline::Outlined;
use crate::verdict::Verdict;
use crate::{config, maps};

/// Translates the destination of a new flow to a backend, if it is a Service. The class of the
/// destination is in `flow.class`; that of the backend is set by the caller.
#[inline(always)]
pub fn translate<F: Outlined>(
    f: &F,
    packet: &Packet,
    flow: &mut Flow,
    chosen: &mut Chosen,
) -> Result<bool, Verdict> {
    let Some(frontend) = find(packet, flow, chosen) else { return Ok(false) };
    if packet.is_unresolved() {
        return Err(fragment::wait(packet));
    }
    // A connection of the node from a port that is a NodePort as well.
    if flow.class == DestinationClass::Node
        && !packet.is_syn()
        && f.node_is_connected(&packet.tuple)
    {
        return Ok(false);
    }
    // A connection that the node had opened before the address became a frontend has no flow.
    if flow.origin == Origin::Stack
        && packet.is_mid_stream()
        && frontend.flags & frontend_flags::EXTERNAL != 0
        && f.node_is_connected(&packet.tuple.reversed())
    {
        return Ok(false);
    }
    service_client(packet, &mut chosen.client);
    let request =
        Request { is_local: flow.origin != Origin::Netdev, is_mid_stream: packet.is_mid_stream() };
    let mut choice = backend::choose(frontend, request, chosen);
    if choice == Choice::MidStream {
        flow.is_stray = true;
        choice = backend::any(frontend, chosen);
    }
    match choice {
        Choice::Chosen if chosen.backend.addr.family() == packet.family => {}
        Choice::UnknownPort => return Err(Verdict::Reject(DropReason::UnknownServicePort)),
        Choice::NoEndpoint => return Err(Verdict::Reject(DropReason::NoEndpoint)),
        Choice::NoLocalEndpoint => return Err(Verdict::Drop(DropReason::NoLocalEndpoint)),
        Choice::SourceNotAllowed => return Err(Verdict::Drop(DropReason::SourceNotAllowed)),
        Choice::Chosen | Choice::TableIncomplete | Choice::ClientUnknown | Choice::MidStream => {
            return Err(Verdict::Drop(DropReason::TableIncomplete));
        }
    }
    flow.translate_to(chosen.id, &chosen.backend);
    flow.keeps_source = frontend.flags & KEPT == KEPT;
    Ok(true)
}

/// Flags of a frontend whose clients on other hosts keep their addresses.
const KEPT: u32 = frontend_flags::EXTERNAL | frontend_flags::LOCAL;

/// Sets the address of the client: the source; the node's, if it uses the address of the frontend,
/// which it has, as source.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn service_client(packet: *const Packet, client: *mut Addr) -> u32 {
    // SAFETY: the caller passes references; the verifier requires the checks for null.
    let (Some(packet), Some(client)) = (unsafe { (packet.as_ref(), client.as_mut()) }) else {
        return 0;
    };
    let tuple = &packet.tuple;
    *client = tuple.src;
    if tuple.src == tuple.dst
        && let Some(node) = config::node()
    {
        *client = node.addr(&tuple.dst);
    }
    1
}

/// The frontend of a new flow's packet. Only a wildcard matches packets without ports.
#[inline(always)]
fn find(packet: &Packet, flow: &Flow, chosen: &mut Chosen) -> Option<Frontend> {
    if !flow.class.may_be_service() {
        return None;
    }
    let frontend = Frontend::from_number(service_find(packet, flow.class as u32, chosen))?;
    let is_none = flow.origin != Origin::Netdev && frontend.is_external_wildcard();
    if is_none { None } else { Some(frontend) }
}

/// The frontend of a packet as one number: Service port, and flags from bit 32; 0: none. Sets the
/// backend of a hostPort.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn service_find(packet: *const Packet, class: u32, chosen: *mut Chosen) -> u64 {
    // SAFETY: the caller passes references; the verifier requires the checks for null.
    let (Some(packet), Some(chosen)) = (unsafe { (packet.as_ref(), chosen.as_mut()) }) else {
        return 0;
    };
    let tuple = &packet.tuple;
    let has_port = tuple.proto != proto::ICMP && !packet.is_unresolved();
    let mut frontend = None;
    if has_port {
        frontend = maps::frontend(&tuple.dst, tuple.dport, tuple.proto);
    }
    if frontend.is_none() {
        if class == DestinationClass::Node as u32 {
            if has_port {
                let (dst, port) = (&tuple.dst, tuple.dport);
                frontend = backend::of_node(dst, port, tuple.proto, false, chosen);
            }
        } else if class != DestinationClass::OtherNode as u32 {
            frontend = maps::wildcard_frontend(&tuple.dst);
        }
    }
    frontend.map_or(0, Frontend::to_number)
}
