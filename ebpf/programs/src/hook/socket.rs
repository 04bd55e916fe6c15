//! Services at the socket: the destination is translated once per connection or datagram, in the
//! system call, and packets need no translation.

use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::programs::SockContext;
use sluice_abi::{
    Addr, Family, Frontend, Outcome, PortBe, SocketOrigin, SocketOrigins, UdpSocket, WILDCARD_PORT,
    WILDCARD_PROTO, frontend_flags, node_port_addr, pod_policy_flags, proto,
};
use sluice_packet::ip;

use crate::config;
use crate::counters;
use crate::flow::DestinationClass;
use crate::maps::{self, SOCKET_ORIGINS, UDP_SOCKETS};
use crate::peer::Peer;
use crate::stage::backend::{self, Choice, Chosen, Request};
use crate::stage::class;

/// Continue with the system call.
const PROCEED: i32 = 1;
/// Fail the system call.
const REJECT: i32 = 0;
/// `ECONNREFUSED`.
const ECONNREFUSED: i32 = 111;

/// What became of the destination of a system call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Translation {
    /// It is the backend that was chosen for it, or that the socket has already.
    Done,
    /// It stays as it is.
    None,
    /// The call fails, and changes nothing.
    Rejected,
}

impl Translation {
    /// The program's return value.
    #[inline(always)]
    fn action(self) -> i32 {
        if matches!(self, Translation::Rejected) { REJECT } else { PROCEED }
    }
}

/// `connect`. A datagram socket that is translated has an entry in `UDP_SOCKETS`, by which the agent closes it
/// when its backend or its frontend ends.
#[inline(always)]
pub fn connect(peer: &Peer<'_>) -> i32 {
    let translation = translate(peer, false);
    if matches!(translation, Translation::None) && peer.proto() == proto::UDP {
        let _absent = UDP_SOCKETS.remove(&peer.cookie());
    }
    translation.action()
}

/// The end of a socket.
#[inline(always)]
pub fn release(ctx: &SockContext) -> i32 {
    // SAFETY: the context is valid for the program's run; the verifier accepts only this 32-bit read.
    let protocol = unsafe { core::ptr::read_volatile(&raw const (*ctx.sock).protocol) };
    if protocol == u32::from(proto::UDP) {
        // SAFETY: the helper takes the context of the running program.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.sock.cast()) };
        let _absent = UDP_SOCKETS.remove(&cookie);
    }
    PROCEED
}

/// `sendmsg` with an address. A socket keeps its backend as long as the backend exists.
#[inline(always)]
pub fn sendmsg(peer: &Peer<'_>) -> i32 {
    translate(peer, true).action()
}

#[inline(always)]
fn translate(peer: &Peer<'_>, keep: bool) -> Translation {
    let (addr, port, protocol) = (destination(peer), peer.port(), peer.proto());
    if protocol != proto::TCP && protocol != proto::UDP && protocol != proto::SCTP {
        return Translation::None;
    }
    let mut chosen = Chosen::default();
    let Some(frontend) = frontend(peer, &addr, port, protocol, &mut chosen) else {
        return Translation::None;
    };
    if keep && reuse(peer, &addr, port, frontend) {
        let request = Request { is_local: true, is_mid_stream: true };
        match backend::choose(frontend, request, &mut chosen) {
            Choice::MidStream | Choice::ClientUnknown => return Translation::Done,
            // The Service has no backend any more, which is found below.
            _ => peer.set(&addr, port),
        }
    }
    chosen.client = client(peer, &addr);
    let request = Request { is_local: true, is_mid_stream: false };
    match backend::choose(frontend, request, &mut chosen) {
        Choice::Chosen
            if peer.can_hold(&chosen.backend.addr)
                && !is_judged_hairpin(&chosen.client, &chosen.backend.addr) => {}
        Choice::UnknownPort | Choice::NoEndpoint => return reject(peer),
        // Packets to an address of the node itself pass the tc programs only if a pod sends them.
        Choice::SourceNotAllowed if maps::is_this_node(&addr) && !is_pod(peer, &chosen.client) => {
            return reject(peer);
        }
        // The tc programs drop the packet and count the reason, or know the client by its packet.
        _ => return Translation::None,
    }
    let Chosen { id, backend, .. } = chosen;
    let mut origin = SocketOrigin {
        backend: backend.addr,
        frontend: addr,
        backend_port: backend.port,
        frontend_port: port,
        backend_id: id,
    };
    let left = may_clash(peer, &origin, protocol) && is_pod(peer, &chosen.client);
    if left {
        // The tc programs find another source port for one of the flows, and translate the replies. The socket keeps to
        // them, as it keeps to a backend.
        origin.backend = addr;
        origin.backend_port = port;
        origin.backend_id = 0;
    } else if !keep && protocol == proto::UDP {
        record(peer, &origin);
    }
    store_origin(peer, &origin);
    peer.set(&origin.backend, origin.backend_port);
    if left { Translation::None } else { Translation::Done }
}

/// Records what a datagram socket is connected to. Without an entry, because the map is full, the socket works
/// and is not closed when its backend ends, which is counted.
#[inline(always)]
fn record(peer: &Peer<'_>, origin: &SocketOrigin) {
    if socket_record(peer.cookie(), peer.netns_cookie(), origin) == 0 {
        counters::outcome(Outcome::SocketNotRecorded, 0);
    }
}

/// Writes the entry of a datagram socket; outlined for the stack. Returns 0 if the map is full.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn socket_record(cookie: u64, netns_cookie: u64, origin: *const SocketOrigin) -> u32 {
    // SAFETY: as in `socket_judges_hairpin`.
    let Some(origin) = (unsafe { origin.as_ref() }) else { return 0 };
    let socket = UdpSocket {
        netns_cookie,
        backend: origin.backend,
        frontend: origin.frontend,
        backend_port: origin.backend_port,
        frontend_port: origin.frontend_port,
        backend_id: origin.backend_id,
    };
    if UDP_SOCKETS.insert(&cookie, &socket, 0).is_err() {
        // That of an earlier connect(2) of this socket.
        let _absent = UDP_SOCKETS.remove(&cookie);
        return 0;
    }
    1
}

/// Whether a socket may have the same ends for two frontends of one backend. For TCP these are two sockets with one port,
/// to which they are bound before `connect`: the second connection would fail. For datagrams it is one socket: replies
/// would come from the wrong frontend.
#[inline(always)]
fn may_clash(peer: &Peer<'_>, origin: &SocketOrigin, protocol: u8) -> bool {
    if protocol == proto::TCP {
        return peer.local_port() != 0;
    }
    // SAFETY: as in `reuse`.
    let origins = unsafe { SOCKET_ORIGINS.get_ptr_mut(peer.ctx()).as_ref() };
    origins.is_some_and(|origins| origins.origins.iter().any(|old| is_other_frontend(old, origin)))
}

/// Whether two records are of one backend and two frontends.
#[inline(always)]
fn is_other_frontend(old: &SocketOrigin, new: &SocketOrigin) -> bool {
    old.backend_port == new.backend_port
        && old.backend == new.backend
        && (old.frontend_port != new.frontend_port || old.frontend != new.frontend)
}

/// The destination of a system call. To the kernel, the unspecified address is 127.0.0.1.
#[inline(always)]
fn destination(peer: &Peer<'_>) -> Addr {
    let addr = peer.addr();
    if addr == node_port_addr(Family::V4) { Addr::v4([127, 0, 0, 1]) } else { addr }
}

/// The frontend of a destination: exact, NodePort, hostPort, or wildcard of a ClusterIP, by the class of
/// the address as for packets. NodePorts and hostPorts are served on the node's loopback addresses as
/// well, NodePorts unless they are excluded, for its own processes only.
#[inline(always)]
fn frontend(
    peer: &Peer<'_>,
    addr: &Addr,
    port: PortBe,
    protocol: u8,
    chosen: &mut Chosen,
) -> Option<Frontend> {
    if *addr == Addr::UNSPECIFIED {
        return None;
    }
    if let Some(frontend) = backend::frontend(addr, port, protocol) {
        // ClusterIPs are not looked up: their ranges contain no pods.
        let is_served = frontend.flags & frontend_flags::EXTERNAL == 0
            || class::of_other(addr).may_be_service();
        return if is_served { Some(frontend) } else { None };
    }
    let is_loopback = ip::is_v4_loopback(addr) && is_node_process(peer);
    if let Some(frontend) = backend::of_node(addr, port, protocol, is_loopback, chosen) {
        return Some(frontend);
    }
    let wildcard = backend::frontend(addr, WILDCARD_PORT, WILDCARD_PROTO)?;
    let class = class::of_other(addr);
    let applies = !wildcard.is_external_wildcard()
        && matches!(class, DestinationClass::ServiceRange | DestinationClass::Outside);
    if applies { Some(wildcard) } else { None }
}

/// Whether the socket is in the node's network namespace.
#[inline(always)]
fn is_node_process(peer: &Peer<'_>) -> bool {
    config::node().is_some_and(|node| node.netns_cookie() == peer.netns_cookie())
}

/// Whether the socket is in the network namespace of a pod of this node, by its [`client`].
#[inline(always)]
fn is_pod(peer: &Peer<'_>, client: &Addr) -> bool {
    *client != Addr::UNSPECIFIED && !is_node_process(peer)
}

/// The address that packets of the socket have on this node before source translation: that of its pod; of processes of the
/// node the one that the socket is bound to, else the node's. Unspecified if neither is known.
#[inline(always)]
fn client(peer: &Peer<'_>, addr: &Addr) -> Addr {
    let Some(node) = config::node() else { return Addr::UNSPECIFIED };
    let cookie = peer.netns_cookie();
    if cookie == node.netns_cookie() {
        let bound = Addr::v4(peer.local_v4());
        let is_own = bound != *addr && bound != node_port_addr(Family::V4) && is_of_node(&bound);
        return if is_own { bound } else { node.addr(addr) };
    }
    maps::pod_in_netns(cookie, addr).unwrap_or(Addr::UNSPECIFIED)
}

/// Whether this node has an address.
#[inline(always)]
fn is_of_node(addr: &Addr) -> bool {
    socket_is_of_node(addr) == 1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn socket_is_of_node(addr: *const Addr) -> u32 {
    // SAFETY: as in `socket_judges_hairpin`.
    let Some(addr) = (unsafe { addr.as_ref() }) else { return 0 };
    u32::from(maps::is_this_node(addr))
}

/// Whether a pod reaches itself by a Service, and ClusterNetworkPolicies judge that. After a translation at
/// the socket, its packets would not leave the pod.
#[inline(always)]
fn is_judged_hairpin(client: &Addr, backend: &Addr) -> bool {
    *client == *backend && *client != Addr::UNSPECIFIED && socket_judges_hairpin(client) == 1
}

/// Returns 1 if the pod of this node with an address is one of [`is_judged_hairpin`], or if that is not
/// known.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn socket_judges_hairpin(addr: *const Addr) -> u32 {
    // SAFETY: the caller passes a reference; the verifier requires the check for null. A copy: memory of an
    // argument cannot be a key before Linux 6.4.
    let Some(addr) = (unsafe { addr.as_ref() }).copied() else { return 1 };
    let Some(pod) = maps::local_pod(&addr) else { return 0 };
    let Some(row) = maps::pod_policy(pod.reference()) else {
        return u32::from(!maps::is_open_namespace(pod.namespace()));
    };
    // SAFETY: an array entry exists as long as the map.
    let flags = unsafe { (*row).flags };
    u32::from(flags & pod_policy_flags::JUDGES_HAIRPIN != 0)
}

/// Fails the system call with ECONNREFUSED. On kernels where a program cannot set the error number,
/// the call proceeds, and the tc programs reject the packet.
#[inline(always)]
fn reject(peer: &Peer<'_>) -> Translation {
    if !config::have_set_retval() {
        return Translation::None;
    }
    peer.fail_with(ECONNREFUSED);
    Translation::Rejected
}

/// Sends to the backend that this socket already uses for this frontend, if the backend exists and
/// still belongs to the Service of the frontend.
#[inline(always)]
fn reuse(peer: &Peer<'_>, addr: &Addr, port: PortBe, frontend: Frontend) -> bool {
    // SAFETY: the pointer is checked below.
    let ptr = unsafe { SOCKET_ORIGINS.get_ptr_mut(peer.ctx()) };
    // SAFETY: the storage exists as long as the socket, which this call holds.
    let Some(origins) = (unsafe { ptr.as_ref() }) else { return false };
    for origin in &origins.origins {
        if origin.frontend_port == port && origin.frontend == *addr {
            if origin.backend_port == port && origin.backend == *addr {
                // Left to the tc programs.
                return true;
            }
            let Some(backend) = maps::backend(origin.backend_id) else { return false };
            let owner = maps::service_of_backend(origin.backend_id).unwrap_or(0);
            if backend.addr != origin.backend
                || backend.port != origin.backend_port
                || (owner != frontend.service && owner != 0)
                // The client is looked up for the few backends for which it matters.
                || socket_judges_hairpin(&backend.addr) == 1
                    && client(peer, addr) == backend.addr
            {
                return false;
            }
            peer.set(&backend.addr, backend.port);
            return true;
        }
    }
    false
}

/// Records the original destination of a socket. Of two frontends of one backend, the last one counts.
#[inline(always)]
fn store_origin(peer: &Peer<'_>, origin: &SocketOrigin) {
    // SAFETY: the pointer is checked below.
    let ptr = unsafe { SOCKET_ORIGINS.get_or_insert_ptr_mut(peer.ctx(), None) };
    // SAFETY: the storage exists as long as the socket, which this call holds. Two threads that use
    // one socket at the same time may mix two records, both of which name peers of this socket.
    let Some(origins) = (unsafe { ptr.as_mut() }) else { return };
    socket_store(origins, origin);
}

/// Replaces the record of the same frontend, else the oldest one; outlined for the stack.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn socket_store(origins: *mut SocketOrigins, origin: *const SocketOrigin) -> u32 {
    // SAFETY: as in `socket_judges_hairpin`. The two are different objects.
    let (Some(origins), Some(origin)) = (unsafe { (origins.as_mut(), origin.as_ref()) }) else {
        return 0;
    };
    let len = origins.origins.len() as u32;
    let mut at = origins.next % 8;
    let mut i = 0u32;
    while i < len {
        if let Some(old) = origins.origins.get_mut(i as usize) {
            if old.frontend_port == origin.frontend_port && old.frontend == origin.frontend {
                at = i;
            } else if is_other_frontend(old, origin) {
                // No packet comes from this port.
                old.backend_port = PortBe::new(0);
            }
        }
        i += 1;
    }
    if at == origins.next % 8 {
        origins.next = at.wrapping_add(1);
    }
    if let Some(slot) = origins.origins.get_mut((at & 7) as usize) {
        *slot = *origin;
    }
    1
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
