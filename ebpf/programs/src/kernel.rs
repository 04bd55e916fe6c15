//! Helpers of the kernel that do not access packets: time, random numbers, routes, redirection.

use core::ffi::c_void;

use aya_ebpf::bindings::{
    bpf_fib_lookup as FibParams, bpf_redir_neigh, bpf_sock_tuple,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
};
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup, bpf_get_prandom_u32, bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns,
    bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_sk_fullsock, bpf_sk_lookup_udp,
    bpf_sk_release, bpf_skc_lookup_tcp,
};
use sluice_abi::{Addr, Family, FlowKey, PortBe, proto, tick as tick_of};
use sluice_packet::affinity;

use crate::maps;

/// `AF_INET`.
const AF_INET: u8 = 2;
/// `AF_INET6`.
const AF_INET6: u8 = 10;
/// `BPF_F_INGRESS`.
const INGRESS: u64 = 1;
/// `BPF_F_CURRENT_NETNS`.
const CURRENT_NETNS: u64 = -1i64 as u64;
/// `BPF_TCP_LISTEN`.
const TCP_LISTEN: u32 = 10;
/// `BPF_TCP_CLOSE`, the state of a datagram socket without a peer.
const TCP_CLOSE: u32 = 7;

/// Nanoseconds since boot, including suspended time.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper takes no arguments and reads a clock.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// The present tick. The coarse clock is a few milliseconds late and is read from memory, without
/// the processor's counter.
#[inline(always)]
pub fn tick() -> u32 {
    // SAFETY: the helper takes no arguments and reads a clock.
    tick_of(unsafe { bpf_ktime_get_coarse_ns() })
}

/// 32 random bits.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// Redirects into the pod behind the host interface `ifindex`. Ingress hooks only.
#[inline(always)]
pub fn redirect_into_pod(ifindex: u32) -> i32 {
    // SAFETY: the helper checks the interface index.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Redirects out of interface `ifindex`, without change of the link-layer header.
#[inline(always)]
pub fn redirect_out(ifindex: u32) -> i32 {
    // SAFETY: the helper checks the interface index.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// Redirects to the ingress of interface `ifindex`.
#[inline(always)]
pub fn redirect_in(ifindex: u32) -> i32 {
    // SAFETY: the helper checks the interface index.
    unsafe { bpf_redirect(ifindex, INGRESS) as i32 }
}

/// Redirects to a next hop, whose hardware address the kernel resolves.
#[inline(always)]
pub fn redirect_to_neighbour(next: &NextHop) -> i32 {
    // SAFETY: all-zero is a valid value of this C struct.
    let mut hop: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    match next.addr.family() {
        Family::V4 => {
            hop.nh_family = u32::from(AF_INET);
            hop.__bindgen_anon_1.ipv4_nh = words(&next.addr)[3];
        }
        Family::V6 => {
            hop.nh_family = u32::from(AF_INET6);
            hop.__bindgen_anon_1.ipv6_nh = words(&next.addr);
        }
    }
    // SAFETY: `hop` is initialized and has the given size.
    unsafe {
        bpf_redirect_neigh(next.ifindex, &mut hop, size_of::<bpf_redir_neigh>() as i32, 0) as i32
    }
}

/// Result of a route lookup.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct NextHop {
    /// Address of the next hop.
    pub addr: Addr,
    /// Output interface. Undefined for a packet that is too long.
    pub ifindex: u32,
    /// MTU of the route.
    pub mtu: u32,
    /// Hardware address of the next hop; zero if the kernel does not know it.
    pub mac: [u8; 6],
    /// Hardware address of the output interface; zero if that of the next hop is.
    pub own_mac: [u8; 6],
}

impl NextHop {
    /// Whether the hardware addresses are known.
    #[inline(always)]
    pub fn is_resolved(&self) -> bool {
        self.mac != [0; 6]
    }
}

/// Result of [`route`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Route {
    /// The stack has to handle the packet: no route, forwarding disabled, next hop of the other
    /// family.
    None = 0,
    /// There is a next hop.
    Found = 1,
    /// The packet is longer than the MTU of its route.
    TooLong = 2,
}

impl Route {
    /// From the number that a global function has returned.
    #[inline(always)]
    pub fn from_number(n: u32) -> Route {
        match n {
            1 => Route::Found,
            2 => Route::TooLong,
            _ => Route::None,
        }
    }
}

/// Looks up the route of a packet of `len` bytes with these addresses that arrived on interface
/// `ifindex`.
#[inline(always)]
pub fn route(
    context: *mut c_void,
    ifindex: u32,
    protocol: u8,
    [src, dst]: [&Addr; 2],
    len: u32,
    hop: &mut NextHop,
) -> Route {
    // SAFETY: all-zero is a valid value of this C struct.
    let mut p: FibParams = unsafe { core::mem::zeroed() };
    // With a length, the kernel compares with the MTU of the route instead of the device, and
    // returns it (Linux 5.12).
    p.__bindgen_anon_1.tot_len = len.min(u32::from(u16::MAX)) as u16;
    let code = lookup(context, ifindex, protocol, [src, dst], &mut p);
    // SAFETY: one of two names of an integer.
    hop.mtu = u32::from(unsafe { p.__bindgen_anon_1.mtu_result });
    if code == TOO_LONG {
        return Route::TooLong;
    }
    if code != FOUND && code != NO_NEIGHBOUR {
        return Route::None;
    }
    hop.ifindex = p.ifindex;
    (hop.mac, hop.own_mac) = ([0; 6], [0; 6]);
    if code == FOUND {
        // SAFETY: one of two names of these bytes.
        (hop.mac, hop.own_mac) = (p.dmac, p.smac);
    }
    hop.addr = match dst.family() {
        // SAFETY: the kernel has written the member of this family, as for IPv6.
        Family::V4 => Addr::v4(unsafe { p.__bindgen_anon_4.ipv4_dst }.to_ne_bytes()),
        // SAFETY: see above.
        Family::V6 => bytes(unsafe { p.__bindgen_anon_4.ipv6_dst }),
    };
    Route::Found
}

/// Whether packets in the opposite direction of this tuple would be sent to the hardware address
/// `mac` on interface `ifindex`. True as well if the kernel does not know the next hop's address: the
/// packet may be what it would learn it from. Of a device without Ethernet header, only the
/// interface is compared.
#[inline(always)]
pub fn is_next_hop_back(context: *mut c_void, ifindex: u32, tuple: &FlowKey, mac: [u8; 6]) -> bool {
    // SAFETY: all-zero is a valid value of this C struct.
    let mut p: FibParams = unsafe { core::mem::zeroed() };
    // Without a length, the kernel compares that of a tc program's packet with the device's MTU.
    p.__bindgen_anon_1.tot_len = 1;
    match lookup(context, ifindex, tuple.proto, [&tuple.dst, &tuple.src], &mut p) {
        FOUND => p.ifindex == ifindex && (p.dmac == mac || !maps::has_ethernet(ifindex)),
        NO_NEIGHBOUR => p.ifindex == ifindex,
        _ => false,
    }
}

/// `BPF_FIB_LKUP_RET_SUCCESS`.
const FOUND: i64 = 0;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`.
const NO_NEIGHBOUR: i64 = 7;
/// `BPF_FIB_LKUP_RET_FRAG_NEEDED`.
const TOO_LONG: i64 = 8;

/// Calls `bpf_fib_lookup`; -1 for a next hop of the other family.
#[inline(always)]
fn lookup(
    context: *mut c_void,
    ifindex: u32,
    protocol: u8,
    [src, dst]: [&Addr; 2],
    p: &mut FibParams,
) -> i64 {
    p.l4_protocol = protocol;
    p.ifindex = ifindex;
    match dst.family() {
        Family::V4 => {
            p.family = AF_INET;
            p.__bindgen_anon_3.ipv4_src = words(src)[3];
            p.__bindgen_anon_4.ipv4_dst = words(dst)[3];
        }
        Family::V6 => {
            p.family = AF_INET6;
            p.__bindgen_anon_3.ipv6_src = words(src);
            p.__bindgen_anon_4.ipv6_dst = words(dst);
        }
    }
    let requested_family = p.family;
    // SAFETY: the context is the program's; `p` is initialized and has the given size.
    let code = unsafe { bpf_fib_lookup(context, p, size_of::<FibParams>() as i32, 0) };
    if p.family != requested_family { -1 } else { code }
}

/// Seconds of `CLOCK_MONOTONIC`, a few milliseconds late.
#[inline(always)]
pub fn seconds() -> u32 {
    // SAFETY: the helper takes no arguments and reads a clock.
    affinity::seconds(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Which sockets receive a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sockets {
    /// Listening and unconnected ones as well.
    All,
    /// Only those that are connected to the sender.
    Connected,
}

/// Whether a socket of the node would receive a packet with this source, `from`, and destination.
/// Other protocols than TCP and UDP have no such sockets.
#[inline(always)]
pub fn node_has_socket(
    context: *mut c_void,
    proto: u8,
    from: (&Addr, PortBe),
    to: (&Addr, PortBe),
    which: Sockets,
) -> bool {
    let Some((mut sockets, size)) = socket_tuple(from, to) else { return false };
    // SAFETY: the context is the program's; `sockets` is initialized and has the given size. A
    // socket that was found is released.
    unsafe {
        let socket = match proto {
            proto::TCP => bpf_skc_lookup_tcp(context, &mut sockets, size, CURRENT_NETNS, 0),
            proto::UDP => bpf_sk_lookup_udp(context, &mut sockets, size, CURRENT_NETNS, 0),
            _ => return false,
        };
        if socket.is_null() {
            return false;
        }
        let receives = match which {
            Sockets::All => true,
            Sockets::Connected => {
                // Sockets of the handshake and of TIME_WAIT are not full ones. The cast gives both
                // kinds of lookup one pointer type, which the verifier requires.
                let full = bpf_sk_fullsock(socket.cast());
                // A datagram socket without a peer is in the state CLOSE.
                full.is_null() || !matches!((*full).state, TCP_LISTEN | TCP_CLOSE)
            }
        };
        bpf_sk_release(socket.cast());
        receives
    }
}

/// Whether a socket of the node is connected to the sender of a packet with this source, `from`, and
/// destination: [`node_has_socket`] for XDP programs, which lack `bpf_sk_fullsock`.
#[inline(always)]
pub fn node_has_connected_socket(
    context: *mut c_void,
    proto: u8,
    from: (&Addr, PortBe),
    to: (&Addr, PortBe),
) -> bool {
    let Some((mut sockets, size)) = socket_tuple(from, to) else { return false };
    // The results have different types, so that the verifier accepts no common code.
    // SAFETY: as in `node_has_socket`.
    unsafe {
        if proto == proto::TCP {
            let socket = bpf_skc_lookup_tcp(context, &mut sockets, size, CURRENT_NETNS, 0);
            if socket.is_null() {
                return false;
            }
            let state = (*socket).state;
            bpf_sk_release(socket.cast());
            return !matches!(state, TCP_LISTEN | TCP_CLOSE);
        }
        if proto != proto::UDP {
            return false;
        }
        let socket = bpf_sk_lookup_udp(context, &mut sockets, size, CURRENT_NETNS, 0);
        if socket.is_null() {
            return false;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        state != TCP_CLOSE
    }
}

/// The addresses of a socket lookup, and their size. `None`: IPv6.
#[inline(always)]
fn socket_tuple(from: (&Addr, PortBe), to: (&Addr, PortBe)) -> Option<(bpf_sock_tuple, u32)> {
    if to.0.family() == Family::V6 {
        return None;
    }
    // SAFETY: all-zero is a valid value of this C struct.
    let mut sockets: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let v4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
        saddr: words(from.0)[3],
        daddr: words(to.0)[3],
        sport: u16::from_ne_bytes(from.1.0),
        dport: u16::from_ne_bytes(to.1.0),
    };
    sockets.__bindgen_anon_1.ipv4 = v4;
    Some((sockets, size_of_val(&v4) as u32))
}

#[inline(always)]
fn words(a: &Addr) -> [u32; 4] {
    let b = &a.0;
    [
        u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
        u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
        u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
    ]
}

#[inline(always)]
fn bytes(words: [u32; 4]) -> Addr {
    let (a, b) = (words[0].to_ne_bytes(), words[1].to_ne_bytes());
    let (c, d) = (words[2].to_ne_bytes(), words[3].to_ne_bytes());
    Addr([
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2],
        d[3],
    ])
}
