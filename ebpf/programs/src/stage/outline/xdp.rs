//! The global functions of XDP frames.

use aya_ebpf::bindings::xdp_md;
use sluice_abi::FlowKey;
use sluice_packet::Headers;

use super::Outlined;
use crate::flow::{Destination, Flow};
use crate::frame::{Frame, Xdp};
use crate::kernel::{self, NextHop, Route, Sockets};
use crate::packet::Packet;
use crate::scratch::Quoted;
use crate::stage::conntrack;
use crate::stage::nat::{self, Change};

impl Outlined for Xdp {
    /// The program writes the link-layer header itself.
    const NEEDS_NEIGHBOUR: bool = true;

    #[inline(always)]
    fn rewrite(&self, packet: &Packet, translated: &FlowKey, headers: &mut Headers) -> Change {
        Change::from_number(xdp_rewrite(self.as_ptr(), packet, translated, headers))
    }

    #[inline(always)]
    fn route(&self, packet: &Packet, translated: &FlowKey, len: u32, hop: &mut NextHop) -> Route {
        Route::from_number(xdp_route(self.as_ptr(), packet, translated, len, hop))
    }

    #[inline(always)]
    fn node_uses(&self, tuple: &FlowKey) -> bool {
        xdp_node_uses(self.as_ptr(), tuple) == 1
    }

    #[inline(always)]
    fn node_is_connected(&self, tuple: &FlowKey) -> bool {
        xdp_node_is_connected(self.as_ptr(), tuple) == 1
    }

    #[inline(always)]
    fn is_from_next_hop(&self, packet: &Packet, headers: &Headers) -> bool {
        xdp_is_from_next_hop(self.as_ptr(), packet, headers) == 1
    }

    #[inline(always)]
    fn open_flow(&self, packet: &Packet, flow: &mut Flow, destination: &Destination) -> u32 {
        xdp_open_flow(self.as_ptr(), packet, flow, destination)
    }

    /// XDP programs of another version are not called.
    #[inline(always)]
    fn has_come_in(&self) -> bool {
        true
    }

    #[inline(always)]
    fn take_mark(&self) -> u32 {
        0
    }

    /// ICMP errors are left to tc.
    #[inline(always)]
    fn restore_error(&self, _: &Packet, _: &mut Headers, _: &mut Quoted, _: &mut FlowKey) -> bool {
        false
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_rewrite(
    ctx: *mut xdp_md,
    packet: *const Packet,
    translated: *const FlowKey,
    headers: *mut Headers,
) -> u32 {
    // SAFETY: the caller passes the context of the run, which is the only kind of pointer that the
    // verifier accepts here.
    let f = unsafe { Xdp::new(ctx) };
    // SAFETY: the caller passes references; the verifier requires the checks for null.
    let (Some(packet), Some(translated), Some(headers)) =
        (unsafe { (packet.as_ref(), translated.as_ref(), headers.as_mut()) })
    else {
        return Change::Failed as u32;
    };
    nat::rewrite(&f, packet, translated, headers) as u32
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_route(
    ctx: *mut xdp_md,
    packet: *const Packet,
    translated: *const FlowKey,
    len: u32,
    hop: *mut NextHop,
) -> u32 {
    // SAFETY: as in `xdp_rewrite`.
    let f = unsafe { Xdp::new(ctx) };
    // SAFETY: as in `xdp_rewrite`.
    let (Some(packet), Some(translated), Some(hop)) =
        (unsafe { (packet.as_ref(), translated.as_ref(), hop.as_mut()) })
    else {
        return Route::None as u32;
    };
    let ends = [&packet.tuple.src, &translated.dst];
    kernel::route(f.context(), packet.ifindex, packet.tuple.proto, ends, len, hop) as u32
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_node_uses(ctx: *mut xdp_md, tuple: *const FlowKey) -> u32 {
    // SAFETY: as in `xdp_rewrite`.
    let f = unsafe { Xdp::new(ctx) };
    // SAFETY: as in `xdp_rewrite`.
    let Some(tuple) = (unsafe { tuple.as_ref() }) else { return 0 };
    let (from, to) = ((&tuple.dst, tuple.dport), (&tuple.src, tuple.sport));
    u32::from(kernel::node_has_socket(f.context(), tuple.proto, from, to, Sockets::All))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_node_is_connected(ctx: *mut xdp_md, tuple: *const FlowKey) -> u32 {
    // SAFETY: as in `xdp_rewrite`.
    let f = unsafe { Xdp::new(ctx) };
    // SAFETY: as in `xdp_rewrite`.
    let Some(tuple) = (unsafe { tuple.as_ref() }) else { return 0 };
    let (from, to) = ((&tuple.src, tuple.sport), (&tuple.dst, tuple.dport));
    u32::from(kernel::node_has_connected_socket(f.context(), tuple.proto, from, to))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_is_from_next_hop(
    ctx: *mut xdp_md,
    packet: *const Packet,
    headers: *const Headers,
) -> u32 {
    // SAFETY: as in `xdp_rewrite`.
    let f = unsafe { Xdp::new(ctx) };
    // SAFETY: as in `xdp_rewrite`.
    let (Some(packet), Some(headers)) = (unsafe { (packet.as_ref(), headers.as_ref()) }) else {
        return 0;
    };
    let sender = headers.link.source();
    u32::from(kernel::is_next_hop_back(f.context(), packet.ifindex, &packet.tuple, sender))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_open_flow(
    ctx: *mut xdp_md,
    packet: *const Packet,
    flow: *mut Flow,
    destination: *const Destination,
) -> u32 {
    // SAFETY: as in `xdp_rewrite`.
    let f = unsafe { Xdp::new(ctx) };
    // SAFETY: as in `xdp_rewrite`.
    let (Some(packet), Some(flow), Some(destination)) =
        (unsafe { (packet.as_ref(), flow.as_mut(), destination.as_ref()) })
    else {
        return u32::MAX;
    };
    conntrack::open_flow(&f, packet, flow, destination)
}
