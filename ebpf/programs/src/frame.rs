//! The only access to packet memory and to socket addresses.
//!
//! Bytes are read and written through the kernel's helpers: they see headers outside the linear
//! part as well, unshare cloned packets, and keep offloaded checksums right.

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, bpf_sock_addr},
    helpers::generated::{
        bpf_l4_csum_replace, bpf_set_retval, bpf_skb_adjust_room, bpf_skb_change_tail,
        bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    programs::SockAddrContext,
};
use sluice_abi::{Addr, PortBe};
use sluice_packet::{checksum::Delta, ipv4};

use crate::packet::QUOTE_LEN;

/// `PACKET_HOST`: addressed to this interface.
const PACKET_HOST: u32 = 0;
/// `BPF_F_PSEUDO_HDR`.
const PSEUDO_HEADER: u64 = 0x10;
/// `BPF_F_MARK_MANGLED_0`: a UDP checksum of 0 means "none" and stays.
const ZERO_IS_NONE: u64 = 0x20;
/// `BPF_ADJ_ROOM_MAC`: room between link layer and network layer.
const AFTER_MAC: u32 = 1;
/// Value of `tc_index` on packets that one of our programs sent to the wire, for `to_netdev`.
const SENT_BY_US: u32 = 0x51c;

/// A frame at a tc hook.
#[derive(Clone, Copy)]
pub struct Frame {
    skb: *mut __sk_buff,
}

impl Frame {
    /// The frame of a program's context.
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Frame {
        Frame { skb }
    }

    /// The context, for helpers that want it.
    #[inline(always)]
    pub fn skb(&self) -> *mut __sk_buff {
        self.skb
    }

    /// Length of the frame in bytes.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        // SAFETY: the context is valid for the program's run, as in all reads below.
        unsafe { (*self.skb()).len }
    }

    /// Interface index of the hook.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: see `len`.
        unsafe { (*self.skb()).ifindex }
    }

    /// Whether a VLAN tag was taken off.
    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        // SAFETY: see `len`.
        unsafe { (*self.skb()).vlan_present != 0 }
    }

    /// Whether the frame is addressed to this interface.
    #[inline(always)]
    pub fn is_for_us(&self) -> bool {
        // SAFETY: see `len`.
        unsafe { (*self.skb()).pkt_type == PACKET_HOST }
    }

    /// Payload bytes of each segment that this packet will be cut into, 0 if it will not be.
    #[inline(always)]
    pub fn segment_len(&self) -> u32 {
        // SAFETY: see `len`.
        unsafe { (*self.skb()).gso_size }
    }

    /// Remembers, for `to_netdev`, that this packet needs nothing any more.
    #[inline(always)]
    pub fn mark_sent(&self, sent: bool) {
        // SAFETY: see `len`; `tc_index` is writable at tc hooks.
        unsafe { (*self.skb()).tc_index = if sent { SENT_BY_US } else { 0 } }
    }

    /// Whether one of our programs sent this packet.
    #[inline(always)]
    pub fn is_sent_by_us(&self) -> bool {
        // SAFETY: see `len`.
        unsafe { (*self.skb()).tc_index == SENT_BY_US }
    }

    /// Reads bytes at `offset`; false: the packet ends before that.
    #[inline(always)]
    pub fn load<const N: usize>(&self, offset: u32, to: &mut [u8; N]) -> bool {
        // SAFETY: `to` is writable and N bytes long; the helper checks the offset.
        unsafe {
            bpf_skb_load_bytes(self.skb().cast(), offset, to.as_mut_ptr().cast(), N as u32) == 0
        }
    }

    /// Reads `len` bytes, 20 to 80 of them, at `offset`.
    #[inline(always)]
    pub fn load_quote(&self, offset: u32, to: &mut [u8; QUOTE_LEN], len: u32) -> bool {
        const MIN: u32 = ipv4::MIN_LEN as u32;
        // Arithmetic instead of a comparison: the compiler may fold two comparisons into one that
        // verifiers before Linux 6.10 learn nothing from.
        let len = MIN + (len.wrapping_sub(MIN) & 63);
        // SAFETY: `to` is writable and has room for 20 + 63 bytes; the helper checks the offset.
        unsafe { bpf_skb_load_bytes(self.skb().cast(), offset, to.as_mut_ptr().cast(), len) == 0 }
    }

    /// Writes bytes at `offset`. Checksums over them are the caller's business.
    #[inline(always)]
    pub fn store<const N: usize>(&self, offset: u32, from: &[u8; N]) -> bool {
        // SAFETY: `from` is readable and N bytes long; the helper checks the offset.
        unsafe { bpf_skb_store_bytes(self.skb(), offset, from.as_ptr().cast(), N as u32, 0) == 0 }
    }

    /// Updates the 16-bit checksum at `offset`. `pseudo`: the change is one of the pseudo header,
    /// which is the only part that the kernel has summed where the device does the rest.
    #[inline(always)]
    pub fn update_checksum(&self, offset: u32, delta: Delta, pseudo: bool, udp: bool) -> bool {
        let flags = if pseudo { PSEUDO_HEADER } else { 0 } | if udp { ZERO_IS_NONE } else { 0 };
        // SAFETY: the helper checks the offset.
        unsafe { bpf_l4_csum_replace(self.skb(), offset, 0, delta.for_helper(), flags) == 0 }
    }

    /// Cuts the frame off after `len` bytes.
    #[inline(always)]
    pub fn truncate(&self, len: u32) -> bool {
        // SAFETY: the helper checks the length.
        unsafe { bpf_skb_change_tail(self.skb(), len, 0) == 0 }
    }

    /// Makes room for `len` bytes between the Ethernet and the IP header.
    #[inline(always)]
    pub fn open_room(&self, len: i32) -> bool {
        // SAFETY: the helper checks the length.
        unsafe { bpf_skb_adjust_room(self.skb(), len, AFTER_MAC, 0) == 0 }
    }

    /// Makes the receiving stack take the frame as its own.
    #[inline(always)]
    pub fn address_to_host(&self) {
        if !self.is_for_us() {
            // SAFETY: the helper only changes the packet's type.
            unsafe { bpf_skb_change_type(self.skb(), PACKET_HOST) };
        }
    }
}

/// The peer's address in a socket call.
pub struct Peer<'a> {
    ctx: &'a SockAddrContext,
    v6: bool,
}

impl<'a> Peer<'a> {
    /// In a program for IPv4 sockets.
    #[inline(always)]
    pub fn v4(ctx: &'a SockAddrContext) -> Peer<'a> {
        Peer { ctx, v6: false }
    }

    /// In a program for IPv6 sockets, which may talk to v4-mapped addresses.
    #[inline(always)]
    pub fn v6(ctx: &'a SockAddrContext) -> Peer<'a> {
        Peer { ctx, v6: true }
    }

    /// The context, for socket storage.
    #[inline(always)]
    pub fn ctx(&self) -> &'a SockAddrContext {
        self.ctx
    }

    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_addr {
        self.ctx.sock_addr
    }

    /// The address, IPv4 as v4-mapped.
    #[inline(always)]
    pub fn addr(&self) -> Addr {
        // The verifier wants whole 32-bit reads at fixed offsets: volatile keeps them so.
        let word = |i: usize| {
            // SAFETY: the context is valid for the program's run; a program attached for IPv6 may
            // read all four words.
            unsafe { core::ptr::read_volatile(&raw const (*self.raw()).user_ip6[i]) }.to_ne_bytes()
        };
        if self.v6 {
            let (a, b, c, d) = (word(0), word(1), word(2), word(3));
            Addr([
                a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
                d[2], d[3],
            ])
        } else {
            // SAFETY: as above; a program attached for IPv4 may read this word.
            let ip = unsafe { core::ptr::read_volatile(&raw const (*self.raw()).user_ip4) };
            Addr::v4(ip.to_ne_bytes())
        }
    }

    /// The port.
    #[inline(always)]
    pub fn port(&self) -> PortBe {
        // SAFETY: as in `addr`.
        let port = unsafe { core::ptr::read_volatile(&raw const (*self.raw()).user_port) };
        let b = port.to_ne_bytes();
        PortBe([b[0], b[1]])
    }

    /// The socket's IP protocol number.
    #[inline(always)]
    pub fn proto(&self) -> u8 {
        // SAFETY: as in `addr`.
        unsafe { core::ptr::read_volatile(&raw const (*self.raw()).protocol) as u8 }
    }

    /// Whether an address can be written into this socket's call.
    #[inline(always)]
    pub fn can_hold(&self, addr: &Addr) -> bool {
        self.v6 || addr.is_v4()
    }

    /// Puts another address and port in place. The caller has asked [`Peer::can_hold`].
    #[inline(always)]
    pub fn set(&self, addr: &Addr, port: PortBe) {
        let a = &addr.0;
        let put = |i: usize, b: [u8; 4]| {
            // SAFETY: as in `addr`, for writing.
            unsafe {
                core::ptr::write_volatile(
                    &raw mut (*self.raw()).user_ip6[i],
                    u32::from_ne_bytes(b),
                );
            }
        };
        if self.v6 {
            put(0, [a[0], a[1], a[2], a[3]]);
            put(1, [a[4], a[5], a[6], a[7]]);
            put(2, [a[8], a[9], a[10], a[11]]);
            put(3, [a[12], a[13], a[14], a[15]]);
        } else {
            let ip = u32::from_ne_bytes([a[12], a[13], a[14], a[15]]);
            // SAFETY: as in `addr`, for writing.
            unsafe { core::ptr::write_volatile(&raw mut (*self.raw()).user_ip4, ip) };
        }
        let port = u32::from_ne_bytes([port.0[0], port.0[1], 0, 0]);
        // SAFETY: as in `addr`, for writing.
        unsafe { core::ptr::write_volatile(&raw mut (*self.raw()).user_port, port) };
    }

    /// Sets the error number that the refused call ends with.
    #[inline(always)]
    pub fn fail_with(&self, errno: i32) {
        let _ = self.ctx.as_ptr();
        // SAFETY: the helper takes a number; callers have made sure that it exists.
        unsafe { bpf_set_retval(-errno) };
    }
}
