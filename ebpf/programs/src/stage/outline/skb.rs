//! Global functions of tc programs.

use aya_ebpf::bindings::__sk_buff;
use sluice_abi::FlowKey;
use sluice_packet::Headers;

use super::Outlined;
use crate::flow::{Destination, Flow};
use crate::frame::{Frame, Skb};
use crate::kernel::{self, NextHop, Route, Sockets};
use crate::packet::Packet;
use crate::scratch::Quoted;
use crate::stage::nat::{self, Change};
use crate::stage::{conntrack, icmp};

impl Outlined for Skb {
    /// The kernel resolves the address and adds the header.
    const NEEDS_NEIGHBOUR: bool = false;

    #[inline(always)]
    fn rewrite(&self, packet: &Packet, translated: &FlowKey, headers: &mut Headers) -> Change {
        Change::from_number(skb_rewrite(self.as_ptr(), packet, translated, headers))
    }

    #[inline(always)]
    fn route(&self, packet: &Packet, translated: &FlowKey, len: u32, hop: &mut NextHop) -> Route {
        Route::from_number(skb_route(self.as_ptr(), packet, translated, len, hop))
    }

    #[inline(always)]
    fn node_uses(&self, tuple: &FlowKey) -> bool {
        skb_node_uses(self.as_ptr(), tuple) == 1
    }

    #[inline(always)]
    fn node_is_connected(&self, tuple: &FlowKey) -> bool {
        skb_node_is_connected(self.as_ptr(), tuple) == 1
    }

    #[inline(always)]
    fn is_from_next_hop(&self, packet: &Packet, headers: &Headers) -> bool {
        skb_is_from_next_hop(self.as_ptr(), packet, headers) == 1
    }

    #[inline(always)]
    fn open_flow(&self, packet: &Packet, flow: &mut Flow, destination: &Destination) -> u32 {
        skb_open_flow(self.as_ptr(), packet, flow, destination)
    }

    #[inline(always)]
    fn has_come_in(&self) -> bool {
        self.ingress_ifindex() != 0
    }

    #[inline(always)]
    fn take_mark(&self) -> u32 {
        self.mark()
    }

    #[inline(always)]
    fn restore_error(
        &self,
        packet: &Packet,
        headers: &mut Headers,
        quoted: &mut Quoted,
        translated: &mut FlowKey,
    ) -> bool {
        skb_restore_error(self.as_ptr(), packet, headers, quoted, translated) == 1
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn skb_rewrite(
    skb: *mut __sk_buff,
    packet: *const Packet,
    translated: *const FlowKey,
    headers: *mut Headers,
) -> u32 {
    // SAFETY: the caller passes the context of the run, which is the only kind of pointer that the
    // verifier accepts here.
    let f = unsafe { Skb::new(skb) };
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
extern "C" fn skb_route(
    skb: *mut __sk_buff,
    packet: *const Packet,
    translated: *const FlowKey,
    len: u32,
    hop: *mut NextHop,
) -> u32 {
    // SAFETY: as in `skb_rewrite`.
    let f = unsafe { Skb::new(skb) };
    // SAFETY: as in `skb_rewrite`.
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
extern "C" fn skb_node_uses(skb: *mut __sk_buff, tuple: *const FlowKey) -> u32 {
    // SAFETY: as in `skb_rewrite`.
    let f = unsafe { Skb::new(skb) };
    // SAFETY: as in `skb_rewrite`.
    let Some(tuple) = (unsafe { tuple.as_ref() }) else { return 0 };
    let (from, to) = ((&tuple.dst, tuple.dport), (&tuple.src, tuple.sport));
    u32::from(kernel::node_has_socket(f.context(), tuple.proto, from, to, Sockets::All))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn skb_node_is_connected(skb: *mut __sk_buff, tuple: *const FlowKey) -> u32 {
    // SAFETY: as in `skb_rewrite`.
    let f = unsafe { Skb::new(skb) };
    // SAFETY: as in `skb_rewrite`.
    let Some(tuple) = (unsafe { tuple.as_ref() }) else { return 0 };
    let (from, to) = ((&tuple.src, tuple.sport), (&tuple.dst, tuple.dport));
    u32::from(kernel::node_has_socket(f.context(), tuple.proto, from, to, Sockets::Connected))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn skb_is_from_next_hop(
    skb: *mut __sk_buff,
    packet: *const Packet,
    headers: *const Headers,
) -> u32 {
    // SAFETY: as in `skb_rewrite`.
    let f = unsafe { Skb::new(skb) };
    // SAFETY: as in `skb_rewrite`.
    let (Some(packet), Some(headers)) = (unsafe { (packet.as_ref(), headers.as_ref()) }) else {
        return 0;
    };
    let sender = headers.link.source();
    u32::from(kernel::is_next_hop_back(f.context(), packet.ifindex, &packet.tuple, sender))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn skb_open_flow(
    skb: *mut __sk_buff,
    packet: *const Packet,
    flow: *mut Flow,
    destination: *const Destination,
) -> u32 {
    // SAFETY: as in `skb_rewrite`.
    let f = unsafe { Skb::new(skb) };
    // SAFETY: as in `skb_rewrite`.
    let (Some(packet), Some(flow), Some(destination)) =
        (unsafe { (packet.as_ref(), flow.as_mut(), destination.as_ref()) })
    else {
        return u32::MAX;
    };
    conntrack::open_flow(&f, packet, flow, destination)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn skb_restore_error(
    skb: *mut __sk_buff,
    packet: *const Packet,
    headers: *mut Headers,
    quoted: *mut Quoted,
    translated: *mut FlowKey,
) -> u32 {
    // SAFETY: as in `skb_rewrite`.
    let f = unsafe { Skb::new(skb) };
    // SAFETY: as in `skb_rewrite`.
    let (Some(packet), Some(headers), Some(quoted), Some(translated)) =
        (unsafe { (packet.as_ref(), headers.as_mut(), quoted.as_mut(), translated.as_mut()) })
    else {
        return 0;
    };
    u32::from(icmp::restore(&f, packet, headers, quoted, translated))
}
