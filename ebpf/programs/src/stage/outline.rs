//! Stages that access packets as global functions.
//!
//! The verifier proves a global function once, by itself, instead of once per path that leads to
//! it; its arguments are the context and pointers to sized values. Stages are generic over the kind
//! of frame, and global functions cannot be, so that each kind of frame has its own set here.

use aya_ebpf::bindings::__sk_buff;
use sluice_abi::FlowKey;
use sluice_packet::Headers;

use crate::{
    frame::{Frame, Skb},
    kernel::{self, NextHop},
    packet::Packet,
    scratch::Quoted,
    stage::{icmp, nat},
};

/// Frames with a set of global functions.
pub trait Outlined: Frame {
    /// [`nat::rewrite`].
    fn rewrite(&self, packet: &Packet, translated: &FlowKey, headers: &mut Headers) -> bool;

    /// [`kernel::route`] for a packet with this tuple, from the interface of the hook.
    fn route(&self, packet: &Packet, translated: &FlowKey, hop: &mut NextHop) -> bool;

    /// [`icmp::restore`].
    fn restore_error(
        &self,
        packet: &Packet,
        headers: &mut Headers,
        quoted: &mut Quoted,
        translated: &mut FlowKey,
    ) -> bool;
}

impl Outlined for Skb {
    #[inline(always)]
    fn rewrite(&self, packet: &Packet, translated: &FlowKey, headers: &mut Headers) -> bool {
        skb_rewrite(self.as_ptr(), packet, translated, headers) == 1
    }

    #[inline(always)]
    fn route(&self, packet: &Packet, translated: &FlowKey, hop: &mut NextHop) -> bool {
        skb_route(self.as_ptr(), packet, translated, hop) == 1
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
        return 0;
    };
    u32::from(nat::rewrite(&f, packet, translated, headers))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn skb_route(
    skb: *mut __sk_buff,
    packet: *const Packet,
    translated: *const FlowKey,
    hop: *mut NextHop,
) -> u32 {
    // SAFETY: as in `skb_rewrite`.
    let f = unsafe { Skb::new(skb) };
    // SAFETY: as in `skb_rewrite`.
    let (Some(packet), Some(translated), Some(hop)) =
        (unsafe { (packet.as_ref(), translated.as_ref(), hop.as_mut()) })
    else {
        return 0;
    };
    u32::from(kernel::route(f.context(), packet.ifindex, translated, hop))
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
