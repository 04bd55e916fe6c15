//! Services at the socket: the destination is translated once per connection or datagram, in the
//! system call, and packets need no translation.

use sluice_abi::{Addr, PortBe, SocketOrigin, proto};
use sluice_packet::select::NoBackend;

use crate::{
    config, kernel,
    maps::{self, SOCKET_ORIGINS},
    peer::Peer,
    stage::backend::{self, Chosen},
};

/// Continue with the system call.
const PROCEED: i32 = 1;
/// Fail the system call.
const REJECT: i32 = 0;
/// `ECONNREFUSED`.
const ECONNREFUSED: i32 = 111;

/// `connect`.
#[inline(always)]
pub fn connect(peer: &Peer<'_>) -> i32 {
    translate(peer, false)
}

/// `sendmsg` with an address. A socket keeps its backend as long as the backend exists.
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
    let Some(frontend) = backend::frontend(&addr, port, protocol) else { return PROCEED };
    let slots = backend::slots(&frontend, true);
    if keep && slots.is_ok() && reuse(peer, &addr, port) {
        return PROCEED;
    }
    let chosen = slots.and_then(|slots| backend::choose(slots, kernel::random()));
    let Chosen { id, backend } = match chosen {
        Ok(chosen) if peer.can_hold(&chosen.backend.addr) => chosen,
        Err(NoBackend::UnknownPort | NoBackend::NoEndpoint) => return reject(peer),
        // The tc programs drop the packet and count the reason.
        Ok(_) | Err(NoBackend::NoLocalEndpoint | NoBackend::TableIncomplete) => return PROCEED,
    };
    store_origin(
        peer,
        SocketOrigin {
            backend: backend.addr,
            frontend: addr,
            backend_port: backend.port,
            frontend_port: port,
            backend_id: id,
        },
    );
    peer.set(&backend.addr, backend.port);
    PROCEED
}

/// Fails the system call with ECONNREFUSED. On kernels where a program cannot set the error number,
/// the call proceeds, and the tc programs reject the packet.
#[inline(always)]
fn reject(peer: &Peer<'_>) -> i32 {
    if !config::have_set_retval() {
        return PROCEED;
    }
    peer.fail_with(ECONNREFUSED);
    REJECT
}

/// Sends to the backend that this socket already uses for this frontend, if the backend exists.
#[inline(always)]
fn reuse(peer: &Peer<'_>, addr: &Addr, port: PortBe) -> bool {
    // SAFETY: the pointer is checked below.
    let ptr = unsafe { SOCKET_ORIGINS.get_ptr_mut(peer.ctx()) };
    // SAFETY: the storage exists as long as the socket, which this call holds.
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

/// Records the original destination of a socket.
#[inline(always)]
fn store_origin(peer: &Peer<'_>, origin: SocketOrigin) {
    // SAFETY: the pointer is checked below.
    let ptr = unsafe { SOCKET_ORIGINS.get_or_insert_ptr_mut(peer.ctx(), None) };
    // SAFETY: the storage exists as long as the socket, which this call holds. Two threads that use
    // one socket at the same time may mix two records, both of which name peers of this socket.
    let Some(origins) = (unsafe { ptr.as_mut() }) else { return };
    // A record of the same frontend is replaced.
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
    if let Some(slot) = origins.origins.get_mut((at & 7) as usize) {
        *slot = origin;
    }
}

/// `recvmsg` and `getpeername`: replaces a backend by the frontend that the process used.
#[inline(always)]
pub fn restore_peer(peer: &Peer<'_>) -> i32 {
    // SAFETY: the pointer is checked below.
    let ptr = unsafe { SOCKET_ORIGINS.get_ptr_mut(peer.ctx()) };
    // SAFETY: the storage exists as long as the socket, which this call holds.
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
