//! Services at the socket: the destination is translated once per connection, or per datagram, in
//! the call that names it, and packets need nothing any more.

use sluice_abi::{
    Addr, Frontend, FrontendKey, PortBe, SocketOrigin, WILDCARD_PORT, WILDCARD_PROTO,
    frontend_flags, proto,
};
use sluice_packet::select;

use crate::{
    config,
    frame::Peer,
    kernel,
    maps::{self, SLOTS, SOCKET_ORIGINS},
};

/// Let the call go on.
const PROCEED: i32 = 1;
/// End the call with an error.
const REJECT: i32 = 0;
/// `ECONNREFUSED`.
const ECONNREFUSED: i32 = 111;

/// `connect`: an unknown port of a Service address is refused as well.
#[inline(always)]
pub fn connect(peer: &Peer<'_>) -> i32 {
    translate(peer, false)
}

/// `sendmsg` with an address: a socket keeps its backend as long as that one serves.
#[inline(always)]
pub fn sendmsg(peer: &Peer<'_>) -> i32 {
    translate(peer, true)
}

#[inline(always)]
fn translate(peer: &Peer<'_>, keep: bool) -> i32 {
    let (addr, port, protocol) = (peer.addr(), peer.port(), peer.proto());
    if protocol != proto::TCP && protocol != proto::UDP && protocol != proto::SCTP {
        return PROCEED;
    }
    let Some(frontend) = frontend(addr, port, protocol) else { return PROCEED };
    if frontend.flags & frontend_flags::DROP != 0 {
        return PROCEED;
    }
    let Some(slot) = select::slot(frontend.slots_offset, frontend.slots_len, kernel::random())
    else {
        return refuse(peer);
    };
    if keep && reuse(peer, &addr, port) {
        return PROCEED;
    }
    let Some(id) = SLOTS.get(slot) else { return PROCEED };
    let Some(backend) = maps::backend(*id) else { return PROCEED };
    if !peer.can_hold(&backend.addr) {
        return PROCEED;
    }
    remember(
        peer,
        SocketOrigin {
            backend: backend.addr,
            frontend: addr,
            backend_port: backend.port,
            frontend_port: port,
            backend_id: *id,
        },
    );
    peer.set(&backend.addr, backend.port);
    PROCEED
}

/// The frontend: exact, or the one for all other ports of a Service address (which has no slots).
#[inline(always)]
fn frontend(addr: Addr, port: PortBe, protocol: u8) -> Option<Frontend> {
    let mut key = FrontendKey { addr, port, proto: protocol, pad: 0 };
    if let Some(frontend) = maps::frontend(&key) {
        return Some(frontend);
    }
    key.port = WILDCARD_PORT;
    key.proto = WILDCARD_PROTO;
    maps::frontend(&key)
}

/// Nobody serves: the caller learns it at once. Where the kernel has no way to say which error,
/// the packet goes out and the tc programs refuse it.
#[inline(always)]
fn refuse(peer: &Peer<'_>) -> i32 {
    if !config::have_set_retval() {
        return PROCEED;
    }
    peer.fail_with(ECONNREFUSED);
    REJECT
}

/// Sends to the backend that this socket already talks to under this name, if it still serves.
#[inline(always)]
fn reuse(peer: &Peer<'_>, addr: &Addr, port: PortBe) -> bool {
    // SAFETY: the pointer is checked below.
    let ptr = unsafe { SOCKET_ORIGINS.get_ptr_mut(peer.ctx()) };
    // SAFETY: the storage lives as long as the socket, which this call holds.
    let Some(origins) = (unsafe { ptr.as_ref() }) else { return false };
    for origin in &origins.origins {
        if origin.frontend_port == port && origin.frontend == *addr {
            let Some(backend) = maps::backend(origin.backend_id) else { return false };
            if backend.addr != origin.backend || backend.port != origin.backend_port {
                return false;
            }
            peer.set(&backend.addr, backend.port);
            return true;
        }
    }
    false
}

/// Notes what the socket asked for.
#[inline(always)]
fn remember(peer: &Peer<'_>, origin: SocketOrigin) {
    // SAFETY: the pointer is checked below.
    let ptr = unsafe { SOCKET_ORIGINS.get_or_insert_ptr_mut(peer.ctx(), None) };
    // SAFETY: the storage lives as long as the socket, which this call holds. Two threads that use
    // one socket at a time may mix two notes; they would name the same socket's peers.
    let Some(origins) = (unsafe { ptr.as_mut() }) else { return };
    // The same name again takes its old place: what it meant before is gone.
    let len = origins.origins.len() as u32;
    let mut at = origins.next % 8;
    let mut i = 0u32;
    while i < len {
        if let Some(old) = origins.origins.get(i as usize)
            && old.frontend_port == origin.frontend_port
            && old.frontend == origin.frontend
        {
            at = i;
        }
        i += 1;
    }
    if at == origins.next % 8 {
        origins.next = at.wrapping_add(1);
    }
    if let Some(place) = origins.origins.get_mut((at & 7) as usize) {
        *place = origin;
    }
}

/// `recvmsg` and `getpeername`: the peer under the name that the program used.
#[inline(always)]
pub fn name_peer(peer: &Peer<'_>) -> i32 {
    // SAFETY: the pointer is checked below.
    let ptr = unsafe { SOCKET_ORIGINS.get_ptr_mut(peer.ctx()) };
    // SAFETY: the storage lives as long as the socket, which this call holds.
    let Some(origins) = (unsafe { ptr.as_ref() }) else { return PROCEED };
    let (addr, port) = (peer.addr(), peer.port());
    for origin in &origins.origins {
        if origin.backend_port == port && origin.backend == addr && peer.can_hold(&origin.frontend)
        {
            peer.set(&origin.frontend, origin.frontend_port);
            return PROCEED;
        }
    }
    PROCEED
}
