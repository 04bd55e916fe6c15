//! The kernel's helpers that touch no packet: time, chance, routes, redirection.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_fib_lookup as FibParams, bpf_redir_neigh},
    helpers::generated::{
        bpf_fib_lookup, bpf_get_prandom_u32, bpf_ktime_get_boot_ns, bpf_redirect,
        bpf_redirect_neigh, bpf_redirect_peer,
    },
};

/// `AF_INET`.
const AF_INET: u8 = 2;
/// `BPF_F_INGRESS`.
const INGRESS: u64 = 1;

/// Nanoseconds since boot, suspended time included.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper takes nothing and only reads a clock.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// 32 random bits.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_get_prandom_u32() }
}

/// Into the pod behind the host interface `ifindex`, on the spot. Ingress hooks only.
#[inline(always)]
pub fn redirect_into_pod(ifindex: u32) -> i32 {
    // SAFETY: the helper checks the interface index itself.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Out of interface `ifindex` as the frame stands.
#[inline(always)]
pub fn redirect_out(ifindex: u32) -> i32 {
    // SAFETY: as above.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// As if the frame had come in at interface `ifindex`.
#[inline(always)]
pub fn redirect_in(ifindex: u32) -> i32 {
    // SAFETY: as above.
    unsafe { bpf_redirect(ifindex, INGRESS) as i32 }
}

/// Out of interface `ifindex` to `next_hop`, whose hardware address the kernel finds and keeps
/// fresh.
#[inline(always)]
pub fn redirect_to_neighbour(ifindex: u32, next_hop: [u8; 4]) -> i32 {
    // SAFETY: all-zero is a valid value of this plain C struct.
    let mut hop: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    hop.nh_family = u32::from(AF_INET);
    hop.__bindgen_anon_1.ipv4_nh = u32::from_ne_bytes(next_hop);
    // SAFETY: `hop` is initialised and as long as we say.
    unsafe { bpf_redirect_neigh(ifindex, &mut hop, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

/// Where the kernel's routes lead: interface index and next hop. `None`: the stack must handle the
/// packet, because there is no route, it is too long, or forwarding is off.
#[inline(always)]
pub fn route(
    skb: *mut __sk_buff,
    ifindex: u32,
    proto: u8,
    src: [u8; 4],
    dst: [u8; 4],
) -> Option<(u32, [u8; 4])> {
    /// `BPF_FIB_LKUP_RET_SUCCESS` and `BPF_FIB_LKUP_RET_NO_NEIGH`.
    const USABLE: [i64; 2] = [0, 7];

    // SAFETY: all-zero is a valid value of this plain C struct.
    let mut p: FibParams = unsafe { core::mem::zeroed() };
    p.family = AF_INET;
    p.l4_protocol = proto;
    p.ifindex = ifindex;
    p.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(src);
    p.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(dst);
    // SAFETY: the context is the program's own; `p` is initialised and as long as we say.
    let code = unsafe { bpf_fib_lookup(skb.cast(), &mut p, size_of::<FibParams>() as i32, 0) };
    if !USABLE.contains(&code) || p.family != AF_INET {
        return None;
    }
    // SAFETY: for AF_INET the kernel has written the IPv4 member.
    let next_hop = unsafe { p.__bindgen_anon_4.ipv4_dst };
    Some((p.ifindex, next_hop.to_ne_bytes()))
}
