//! Access to the peer address of a socket system call.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;
use sluice_abi::{Addr, PortBe};

/// The peer address of a socket system call.
pub struct Peer<'a> {
    ctx: &'a SockAddrContext,
    v6: bool,
}

impl<'a> Peer<'a> {
    /// The peer in a program for IPv4 sockets.
    #[inline(always)]
    pub fn v4(ctx: &'a SockAddrContext) -> Peer<'a> {
        Peer { ctx, v6: false }
    }

    /// The peer in a program for IPv6 sockets, whose peer may be a v4-mapped address.
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
        // The verifier accepts only 32-bit reads at fixed offsets; volatile prevents others.
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

    /// The local port, 0 if the socket is not bound to one. The kernel gives it one after `connect`.
    #[inline(always)]
    pub fn local_port(&self) -> u32 {
        // SAFETY: the context has the socket of the system call, whose fields a program may read; volatile as in `addr`.
        unsafe { core::ptr::read_volatile(&raw const (*self.socket()).src_port) }
    }

    /// The local IPv4 address, unspecified if the socket is not bound to one.
    #[inline(always)]
    pub fn local_v4(&self) -> [u8; 4] {
        // SAFETY: as in `local_port`.
        unsafe { core::ptr::read_volatile(&raw const (*self.socket()).src_ip4) }.to_ne_bytes()
    }

    #[inline(always)]
    fn socket(&self) -> *const bpf_sock {
        // SAFETY: as in `addr`.
        unsafe { core::ptr::read_volatile(&raw const (*self.raw()).__bindgen_anon_1.sk) }
            .cast_const()
    }

    /// Cookie of the socket's network namespace; 0 if the kernel has none.
    #[inline(always)]
    pub fn netns_cookie(&self) -> u64 {
        // SAFETY: the helper takes the context of the running program.
        unsafe { bpf_get_netns_cookie(self.raw().cast()) }
    }

    /// Cookie of the socket, which no other socket has until the next boot.
    #[inline(always)]
    pub fn cookie(&self) -> u64 {
        // SAFETY: the helper takes the context of the running program.
        unsafe { bpf_get_socket_cookie(self.raw().cast()) }
    }

    /// Whether an address of this family can be the peer of this socket.
    #[inline(always)]
    pub fn can_hold(&self, addr: &Addr) -> bool {
        self.v6 || addr.is_v4()
    }

    /// Replaces address and port. The caller has checked [`Peer::can_hold`].
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

    /// Sets the error number of a rejected system call.
    #[inline(always)]
    pub fn fail_with(&self, errno: i32) {
        // SAFETY: the helper takes a number; callers have checked that the kernel has it.
        unsafe { bpf_set_retval(-errno) };
    }
}
