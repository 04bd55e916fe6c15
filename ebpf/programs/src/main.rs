//! The eBPF programs: entry points only. What each one does stands in `hook/`, stage by stage.
//!
//! Built for the BPF target by `cargo xtask build`. For the host's target this is an empty program
//! with the same modules in it, so that `cargo check`, clippy and editors work anywhere.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(missing_docs, reason = "the program macros add functions of their own")]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "map keys by value would be copied to the stack, which holds 512 bytes"
)]

use aya_ebpf::{
    macros::{cgroup_sock_addr, classifier},
    programs::{SockAddrContext, TcContext},
};
use sluice_abi::program::Hook;

mod config;
mod finish;
mod frame;
mod hook;
mod kernel;
mod maps;
mod packet;
mod stage;

/// tc, ingress of the host end of a pod's veth.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    hook::run(&ctx, Hook::FromPod, hook::pod::from_pod)
}

/// tc, egress of the host end of a pod's veth.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    hook::run(&ctx, Hook::ToPod, hook::pod::to_pod)
}

/// tc, ingress of the uplink.
#[classifier]
pub fn from_netdev(ctx: TcContext) -> i32 {
    hook::run(&ctx, Hook::FromNetdev, hook::netdev::from_netdev)
}

/// tc, egress of the uplink.
#[classifier]
pub fn to_netdev(ctx: TcContext) -> i32 {
    hook::run(&ctx, Hook::ToNetdev, hook::netdev::to_netdev)
}

/// `connect(2)` of IPv4 sockets.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    hook::socket::connect(&frame::Peer::v4(&ctx))
}

/// `connect(2)` of IPv6 sockets.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    hook::socket::connect(&frame::Peer::v6(&ctx))
}

/// `sendto(2)` and `sendmsg(2)` with an address, of IPv4 datagram sockets.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    hook::socket::sendmsg(&frame::Peer::v4(&ctx))
}

/// `sendto(2)` and `sendmsg(2)` with an address, of IPv6 datagram sockets.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    hook::socket::sendmsg(&frame::Peer::v6(&ctx))
}

/// `recvfrom(2)` and `recvmsg(2)` that ask for the sender, of IPv4 datagram sockets.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    hook::socket::name_peer(&frame::Peer::v4(&ctx))
}

/// `recvfrom(2)` and `recvmsg(2)` that ask for the sender, of IPv6 datagram sockets.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    hook::socket::name_peer(&frame::Peer::v6(&ctx))
}

/// `getpeername(2)` of IPv4 sockets.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    hook::socket::name_peer(&frame::Peer::v4(&ctx))
}

/// `getpeername(2)` of IPv6 sockets.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    hook::socket::name_peer(&frame::Peer::v6(&ctx))
}

/// The kernel wants a licence that lets a program use its GPL-only helpers.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The verifier proves that nothing panics; the compiler wants a handler all the same.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
