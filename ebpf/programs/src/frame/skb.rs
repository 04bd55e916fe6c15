//! Packet access of tc programs.
//!
//! Bytes are read and written by helpers, which also reach bytes outside the linear part, unshare
//! cloned packets, and keep offloaded checksums correct.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_tail,
    bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use sluice_abi::program::handover_mark;
use sluice_packet::checksum::Delta;
use sluice_packet::l4::Kind;
use sluice_packet::{eth, ip};

use super::{Changed, Frame};
use crate::scratch::QUOTE_LEN;

/// `PACKET_HOST`: addressed to this interface.
const PACKET_HOST: u32 = 0;
/// `PACKET_OTHERHOST`: addressed to another interface; the stack drops it.
const PACKET_OTHERHOST: u32 = 3;
/// `BPF_F_PSEUDO_HDR`.
const PSEUDO_HEADER: u64 = 0x10;
/// `BPF_F_MARK_MANGLED_0`: a UDP checksum of 0 means "none" and remains 0.
const ZERO_IS_NONE: u64 = 0x20;
/// `BPF_ADJ_ROOM_MAC`: between link-layer and network-layer header.
const AFTER_MAC: u32 = 1;
/// Value of `tc_index` of packets that a Sluice program has sent to an egress hook of Sluice.
const FORWARDED: u32 = 0x51c;

/// A packet at a tc hook.
#[derive(Clone, Copy)]
pub struct Skb {
    skb: *mut __sk_buff,
}

impl Skb {
    /// The packet of a program's context.
    ///
    /// # Safety
    /// `skb` is the context of the running program, and the value is not used after the run.
    #[inline(always)]
    pub unsafe fn new(skb: *mut __sk_buff) -> Skb {
        Skb { skb }
    }

    /// The context, for global functions.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut __sk_buff {
        self.skb
    }

    /// Whether the frame is addressed to this interface.
    #[inline(always)]
    pub fn is_for_host(&self) -> bool {
        // SAFETY: see `new`, as for all accesses to the context below.
        unsafe { (*self.skb).pkt_type == PACKET_HOST }
    }

    /// Whether the frame is addressed to another interface. A broadcast or multicast frame is neither
    /// this nor [`Skb::is_for_host`].
    #[inline(always)]
    pub fn is_for_other_host(&self) -> bool {
        // SAFETY: see `is_for_host`.
        unsafe { (*self.skb).pkt_type == PACKET_OTHERHOST }
    }

    /// Marks the packet, for `to_netdev` and `to_pod`, as forwarded by Sluice or not.
    #[inline(always)]
    pub fn set_forwarded(&self, forwarded: bool) {
        // SAFETY: see `new`; `tc_index` is writable at tc hooks.
        unsafe { (*self.skb).tc_index = if forwarded { FORWARDED } else { 0 } }
    }

    /// Whether a Sluice program has forwarded this packet.
    #[inline(always)]
    pub fn is_forwarded(&self) -> bool {
        // SAFETY: see `new`.
        unsafe { (*self.skb).tc_index == FORWARDED }
    }

    /// Interface index of the device that has received the packet; 0 for one of a socket of the node.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        // SAFETY: see `new`.
        unsafe { (*self.skb).ingress_ifindex }
    }

    /// Sets the mark for the program of another version: one of [`handover_mark`], or 0.
    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        // SAFETY: see `new`; the control block is writable at tc hooks.
        unsafe { (*self.skb).cb[handover_mark::WORD] = mark }
    }

    /// Returns and clears the mark.
    #[inline(always)]
    pub fn mark(&self) -> u32 {
        // SAFETY: see `new`.
        let mark = unsafe { (*self.skb).cb[handover_mark::WORD] };
        self.set_mark(0);
        mark
    }

    /// Makes the receiving stack accept the frame.
    #[inline(always)]
    pub fn address_to_host(&self) {
        if !self.is_for_host() {
            // SAFETY: see `new`; the helper only changes the packet type.
            unsafe { bpf_skb_change_type(self.skb, PACKET_HOST) };
        }
    }

    /// Reads `len` bytes, 20 to 83, at `offset`.
    #[inline(always)]
    pub fn load_quote(&self, offset: u32, to: &mut [u8; QUOTE_LEN], len: u32) -> bool {
        const MIN: u32 = ip::LEN as u32;
        // Arithmetic instead of a comparison: the compiler may fold two comparisons into one, from
        // which verifiers before Linux 6.10 derive no bound.
        let len = MIN + (len.wrapping_sub(MIN) & 63);
        // SAFETY: `to` is writable and longer than 20 + 63 bytes; the helper checks the offset.
        unsafe { bpf_skb_load_bytes(self.skb.cast(), offset, to.as_mut_ptr().cast(), len) == 0 }
    }

    /// Whether the kernel has received or created this packet as IPv4.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        // SAFETY: see `new`.
        unsafe { (*self.skb).protocol == u32::from(eth::IPV4.to_be()) }
    }

    /// Puts an Ethernet header for IPv4, with addresses of zeros, before a packet without one.
    #[inline(always)]
    pub fn push_ethernet_header(&self) -> bool {
        // SAFETY: see `new`; the helper checks the length, and sets the new bytes to zero.
        let pushed = unsafe { bpf_skb_change_head(self.skb, eth::LEN as u32, 0) == 0 };
        pushed && self.store(eth::TYPE, &eth::IPV4.to_be_bytes())
    }

    /// Cuts the frame off after `len` bytes.
    #[inline(always)]
    pub fn truncate(&self, len: u32) -> bool {
        // SAFETY: see `new`; the helper checks the length.
        unsafe { bpf_skb_change_tail(self.skb, len, 0) == 0 }
    }

    /// Inserts `len` bytes between the Ethernet and the IP header.
    #[inline(always)]
    pub fn insert_after_link_header(&self, len: i32) -> bool {
        // SAFETY: see `new`; the helper checks the length.
        unsafe { bpf_skb_adjust_room(self.skb, len, AFTER_MAC, 0) == 0 }
    }
}

impl Frame for Skb {
    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.skb.cast()
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: see `new`.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: see `new`.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn has_vlan_tag(&self) -> bool {
        // SAFETY: see `new`.
        unsafe { (*self.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn segment_len(&self) -> u32 {
        // SAFETY: see `new`.
        unsafe { (*self.skb).gso_size }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32, to: &mut [u8; N]) -> bool {
        // SAFETY: `to` is writable and N bytes long; the helper checks the offset.
        unsafe {
            bpf_skb_load_bytes(self.skb.cast(), offset, to.as_mut_ptr().cast(), N as u32) == 0
        }
    }

    #[inline(always)]
    fn store<const N: usize>(&self, offset: u32, from: &[u8; N]) -> bool {
        // SAFETY: `from` is readable and N bytes long; the helper checks the offset.
        unsafe { bpf_skb_store_bytes(self.skb, offset, from.as_ptr().cast(), N as u32, 0) == 0 }
    }

    #[inline(always)]
    fn update_checksum(&self, offset: u32, delta: Delta, changed: Changed, kind: Kind) -> bool {
        let part = if changed == Changed::PseudoHeader { PSEUDO_HEADER } else { 0 };
        let zero = if kind == Kind::Udp { ZERO_IS_NONE } else { 0 };
        // SAFETY: see `new`; the helper checks the offset.
        unsafe { bpf_l4_csum_replace(self.skb, offset, 0, delta.for_helper(), part | zero) == 0 }
    }
}
