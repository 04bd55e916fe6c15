//! Entry points of the eBPF programs. The stages of each program are listed in `hook/`.
//!
//! Everything up to the stages of a hook is inlined: one more frame does not fit on the stack.
//!
//! `cargo xtask build` builds this crate for the BPF target. For the host it is an empty program with
//! the same modules, so that `cargo check`, clippy and editors work.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(missing_docs, reason = "the program macros generate functions without documentation")]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "map keys by value are copied to the stack, which is limited to 512 bytes"
)]

use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, SockContext, TcContext, XdpContext};

mod config;
mod counters;
mod exit;
mod flow;
mod frame;
mod handover;
mod hook;
mod kernel;
mod log;
mod maps;
mod packet;
mod peer;
mod scratch;
mod stage;
mod verdict;

use peer::Peer;

/// tc, ingress of the host end of a pod's veth.
#[classifier]
#[inline(always)]
pub fn from_pod(ctx: TcContext) -> i32 {
    hook::run::<hook::pod::FromPod>(&ctx)
}

/// tc, egress of the host end of a pod's veth.
#[classifier]
#[inline(always)]
pub fn to_pod(ctx: TcContext) -> i32 {
    hook::run::<hook::pod::ToPod>(&ctx)
}

/// tc, ingress of the uplink.
#[classifier]
#[inline(always)]
pub fn from_netdev(ctx: TcContext) -> i32 {
    hook::run::<hook::netdev::FromNetdev>(&ctx)
}

/// tc, egress of the uplink.
#[classifier]
#[inline(always)]
pub fn to_netdev(ctx: TcContext) -> i32 {
    hook::run::<hook::netdev::ToNetdev>(&ctx)
}

/// [`from_netdev`], for a device whose packets have no Ethernet header.
#[classifier]
#[inline(always)]
pub fn from_l3dev(ctx: TcContext) -> i32 {
    hook::run_without_ethernet::<hook::netdev::FromNetdev>(&ctx)
}

/// [`to_netdev`], for a device whose packets have no Ethernet header.
#[classifier]
#[inline(always)]
pub fn to_l3dev(ctx: TcContext) -> i32 {
    hook::run_without_ethernet::<hook::netdev::ToNetdev>(&ctx)
}

/// XDP, ingress of the uplink.
#[xdp]
pub fn xdp_netdev(ctx: XdpContext) -> u32 {
    hook::xdp::netdev(&ctx)
}

/// `connect(2)` of IPv4 sockets.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    hook::socket::connect(&Peer::v4(&ctx))
}

/// `connect(2)` of IPv6 sockets.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    hook::socket::connect(&Peer::v6(&ctx))
}

/// `sendto(2)` and `sendmsg(2)` with an address, of IPv4 datagram sockets.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    hook::socket::sendmsg(&Peer::v4(&ctx))
}

/// `sendto(2)` and `sendmsg(2)` with an address, of IPv6 datagram sockets.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    hook::socket::sendmsg(&Peer::v6(&ctx))
}

/// `recvfrom(2)` and `recvmsg(2)` with a buffer for the sender's address, of IPv4 datagram sockets.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    hook::socket::restore_peer(&Peer::v4(&ctx))
}

/// `recvfrom(2)` and `recvmsg(2)` with a buffer for the sender's address, of IPv6 datagram sockets.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    hook::socket::restore_peer(&Peer::v6(&ctx))
}

/// `getpeername(2)` of IPv4 sockets.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    hook::socket::restore_peer(&Peer::v4(&ctx))
}

/// `getpeername(2)` of IPv6 sockets.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    hook::socket::restore_peer(&Peer::v6(&ctx))
}

/// `close(2)`, and the end of a process, for every socket.
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    hook::socket::release(&ctx)
}

/// License; GPL-only helpers require a compatible one.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Required by the compiler. The verifier rejects programs that can reach it.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
