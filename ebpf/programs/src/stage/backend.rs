//! Backend choice: one decision for the socket hooks and the tc hooks.

use sluice_abi::{
    Addr, Affinity, AffinityKey, Backend, Frontend, FrontendKey, PortBe, SlotRange, frontend_flags,
    network_kind, node_port_addr,
};
use sluice_packet::select::{self, NoBackend};
use sluice_packet::{affinity, ip};

use crate::kernel;
use crate::maps::{self, AFFINITY, SLOTS};

/// A request for a backend, and what was chosen for it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Chosen {
    /// The client's address before source translation; unspecified if it is not known.
    pub client: Addr,
    /// The backend.
    pub backend: Backend,
    /// Its id.
    pub id: u32,
    /// The slots to choose from.
    slots: SlotRange,
    /// Timeout of session affinity, or 0.
    affinity_seconds: u32,
}

/// Result of [`choose`]. The numbers are results of a global function.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Choice {
    /// There is a backend.
    Chosen = 0,
    /// A wildcard: the Service does not have this port or protocol.
    UnknownPort = 1,
    /// The Service port has no endpoints.
    NoEndpoint = 2,
    /// The Service port has endpoints, but traffic policy Local excludes all of them.
    NoLocalEndpoint = 3,
    /// A Service port, slot or backend is missing.
    TableIncomplete = 4,
    /// The client is outside the source ranges.
    SourceNotAllowed = 5,
    /// There is a backend, but the packet opens no connection.
    MidStream = 6,
    /// The choice depends on the client, whose address is not known.
    ClientUnknown = 7,
}

impl Choice {
    #[inline(always)]
    fn from_number(n: u32) -> Choice {
        match n {
            0 => Choice::Chosen,
            1 => Choice::UnknownPort,
            2 => Choice::NoEndpoint,
            3 => Choice::NoLocalEndpoint,
            5 => Choice::SourceNotAllowed,
            6 => Choice::MidStream,
            7 => Choice::ClientUnknown,
            _ => Choice::TableIncomplete,
        }
    }
}

/// Where a request for a backend comes from, and what it is.
#[derive(Clone, Copy)]
pub struct Request {
    /// The client is a pod or a process of this node.
    pub is_local: bool,
    /// A packet of a connection that should have a flow. It binds no client to a backend.
    pub is_mid_stream: bool,
}

impl Request {
    const LOCAL: u32 = 1;
    const MID_STREAM: u32 = 2;

    #[inline(always)]
    fn bits(self) -> u32 {
        let mid_stream = if self.is_mid_stream { Request::MID_STREAM } else { 0 };
        if self.is_local { Request::LOCAL | mid_stream } else { mid_stream }
    }
}

/// A frontend that is a hostPort: its only backend is in [`Chosen::backend`] already. Clients keep their
/// addresses.
const HOST_PORT: Frontend =
    Frontend { service: 0, flags: IS_HOST_PORT | frontend_flags::EXTERNAL | frontend_flags::LOCAL };

/// The flag of [`HOST_PORT`], which no row of `FRONTENDS` has.
const IS_HOST_PORT: u32 = 1 << 31;

/// [`maps::frontend`] as a global function, for programs with little stack left.
#[inline(always)]
pub fn frontend(addr: &Addr, port: PortBe, proto: u8) -> Option<Frontend> {
    Frontend::from_number(backend_frontend(addr, u32::from(port.get()), u32::from(proto)))
}

/// The body of [`frontend`], with the port in host order.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn backend_frontend(addr: *const Addr, port: u32, proto: u32) -> u64 {
    // SAFETY: as in `backend_slots`.
    let Some(addr) = (unsafe { addr.as_ref() }) else { return 0 };
    maps::frontend(addr, PortBe::new(port as u16), proto as u8).map_or(0, Frontend::to_number)
}

/// The NodePort or hostPort frontend of an address of this node; those of loopback addresses, for its own
/// processes, if `is_loopback`. Sets the backend of a hostPort.
#[inline(always)]
pub fn of_node(
    addr: &Addr,
    port: PortBe,
    proto: u8,
    is_loopback: bool,
    chosen: &mut Chosen,
) -> Option<Frontend> {
    // The address of each search is where that of the pod will be: callers have little stack left.
    let pod = &mut chosen.backend;
    pod.addr = node_port_addr(addr.family());
    let mut found = HOST_PORT;
    if let Some(node_port) = frontend(&pod.addr, port, proto) {
        found = node_port;
    } else {
        let (port, proto) = (u32::from(port.get()), u32::from(proto));
        if backend_host_port(pod, port, proto) == 0 {
            pod.addr = *addr;
            if backend_host_port(pod, port, proto) == 0 {
                return None;
            }
        }
    }
    // After the searches, which rarely find anything: this one takes longer.
    if is_served(found, addr, is_loopback) { Some(found) } else { None }
}

/// The NodePort or hostPort of a packet to an address of this node, by searches with `key`, which is
/// overwritten.
#[inline(always)]
pub fn of_node_by(key: &mut FrontendKey, addr: &Addr) -> Option<Frontend> {
    key.addr = node_port_addr(addr.family());
    let mut frontend = HOST_PORT;
    if let Some(node_port) = maps::frontend_of(key) {
        frontend = node_port;
    } else if maps::host_port(key).is_none() {
        key.addr = *addr;
        maps::host_port(key)?;
    }
    if is_served(frontend, addr, false) { Some(frontend) } else { None }
}

/// Whether an address has a NodePort or hostPort.
#[inline(always)]
fn is_served(frontend: Frontend, addr: &Addr, is_loopback: bool) -> bool {
    let kind = backend_network_kind(addr);
    if ip::is_v4_loopback(addr) {
        // The agent writes a network for loopback addresses that serve no NodePorts. Those of a pod are
        // its own, and packets from the wire have none.
        is_loopback && (kind == network_kind::OUTSIDE || is_host_port(frontend))
    } else {
        kind == network_kind::THIS_NODE
            || (kind == network_kind::THIS_NODE_WITHOUT_NODE_PORTS && is_host_port(frontend))
    }
}

/// Whether a frontend is a hostPort.
#[inline(always)]
pub fn is_host_port(frontend: Frontend) -> bool {
    frontend.flags & IS_HOST_PORT != 0
}

/// Replaces the address of a node, or the unspecified one, by the pod that has the hostPort. Returns 0 if
/// there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn backend_host_port(backend: *mut Backend, port: u32, proto: u32) -> u32 {
    // SAFETY: as in `backend_slots`.
    let Some(backend) = (unsafe { backend.as_mut() }) else { return 0 };
    let port = PortBe::new(port as u16);
    let key = FrontendKey { addr: backend.addr, port, proto: proto as u8, pad: 0 };
    let Some(pod) = maps::host_port(&key) else { return 0 };
    // SAFETY: as for frontends.
    *backend = unsafe { *pod };
    1
}

/// The [`network_kind`] of an address.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn backend_network_kind(addr: *const Addr) -> u32 {
    // SAFETY: as in `backend_slots`.
    match unsafe { addr.as_ref() } {
        Some(addr) => maps::network_kind(addr),
        None => network_kind::OUTSIDE,
    }
}

/// Chooses a backend of a frontend for `chosen.client`.
#[inline(always)]
pub fn choose(frontend: Frontend, request: Request, chosen: &mut Chosen) -> Choice {
    let Frontend { service, flags } = frontend;
    if is_host_port(frontend) {
        // No backend of a Service: the flow ends with the pod.
        chosen.id = 0;
        return if request.is_mid_stream { Choice::MidStream } else { Choice::Chosen };
    }
    let choice = Choice::from_number(backend_slots(chosen, service, flags, request.bits()));
    if choice != Choice::Chosen {
        return choice;
    }
    if backend_pick(chosen, service) == 0 { Choice::TableIncomplete } else { Choice::Chosen }
}

/// Sets the slots of a request. Returns the number of a [`Choice`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn backend_slots(chosen: *mut Chosen, service: u32, flags: u32, request: u32) -> u32 {
    // SAFETY: the caller passes a reference; the verifier requires the check for null.
    match unsafe { chosen.as_mut() } {
        Some(chosen) => find_slots(chosen, &Frontend { service, flags }, request) as u32,
        None => Choice::TableIncomplete as u32,
    }
}

#[inline(always)]
fn find_slots(chosen: &mut Chosen, frontend: &Frontend, request: u32) -> Choice {
    if frontend.flags & frontend_flags::WILDCARD != 0 {
        return Choice::UnknownPort;
    }
    let Some(port) = maps::service_port(frontend.service) else { return Choice::TableIncomplete };
    let is_limited = frontend.flags & frontend_flags::SOURCE_RANGES != 0;
    let is_unknown = chosen.client == Addr::UNSPECIFIED;
    if is_limited && is_unknown {
        return Choice::ClientUnknown;
    }
    // Before the endpoints: the verdict for other clients does not depend on whether there are any.
    if is_limited && !maps::is_in_source_ranges(frontend.service, &chosen.client) {
        return Choice::SourceNotAllowed;
    }
    chosen.affinity_seconds = port.affinity_seconds;
    chosen.slots = match select::slots(frontend, &port, request & Request::LOCAL != 0) {
        Ok(slots) => slots,
        Err(NoBackend::NoEndpoint) => return Choice::NoEndpoint,
        Err(NoBackend::NoLocalEndpoint) => return Choice::NoLocalEndpoint,
        Err(NoBackend::UnknownPort) => return Choice::UnknownPort,
        Err(NoBackend::TableIncomplete) => return Choice::TableIncomplete,
    };
    if request & Request::MID_STREAM != 0 {
        Choice::MidStream
    } else if port.affinity_seconds != 0 && is_unknown {
        Choice::ClientUnknown
    } else {
        Choice::Chosen
    }
}

/// Sets a backend for a packet that is [mid-stream](Choice::MidStream): any, whatever the client's last one.
#[inline(always)]
pub fn any(frontend: Frontend, chosen: &mut Chosen) -> Choice {
    chosen.affinity_seconds = 0;
    if is_host_port(frontend) || backend_pick(chosen, frontend.service) == 1 {
        Choice::Chosen
    } else {
        Choice::TableIncomplete
    }
}

/// Sets the backend of a request with slots. Returns 0 if a slot or the backend is missing, else 1.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn backend_pick(chosen: *mut Chosen, service: u32) -> u32 {
    // SAFETY: as in `backend_slots`.
    let Some(chosen) = (unsafe { chosen.as_mut() }) else { return 0 };
    chosen.id = if chosen.affinity_seconds == 0 {
        random_slot(chosen.slots)
    } else {
        bound(chosen, service)
    };
    match maps::backend(chosen.id) {
        Some(backend) => {
            chosen.backend = backend;
            1
        }
        None => 0,
    }
}

/// The id in a random slot of a range, or 0.
#[inline(always)]
fn random_slot(slots: SlotRange) -> u32 {
    SLOTS.get(select::slot(slots, kernel::random())).copied().unwrap_or(0)
}

/// The id of the backend of a client with session affinity, or 0: that of its last connection, or a
/// random one, which is recorded.
#[inline(always)]
fn bound(chosen: &mut Chosen, service: u32) -> u32 {
    let key = AffinityKey { client: chosen.client, service };
    // SAFETY: two integers. Another CPU may replace them at the same time: either backend is right.
    let last = AFFINITY.get_ptr(&key).map(|last| unsafe { *last });
    // After the lookup, so that the entry of another CPU is rarely younger.
    let now = kernel::seconds();
    let mut id = 0;
    if let Some(last) = last
        && affinity::is_live(&last, chosen.affinity_seconds, now)
        && let Some(backend) = maps::backend(last.backend)
    {
        chosen.backend = backend;
        if affinity::contains(chosen.slots, (last.backend, &chosen.backend), backend_at) {
            id = last.backend;
        }
    }
    if id == 0 {
        id = random_slot(chosen.slots);
    }
    // A full map evicts the client that has not connected for the longest time.
    let _ = AFFINITY.insert(&key, Affinity { backend: id, at: now }, 0);
    id
}

/// Id and backend of a slot.
#[inline(always)]
fn backend_at(slot: u32) -> Option<(u32, Backend)> {
    let id = *SLOTS.get(slot)?;
    Some((id, maps::backend(id)?))
}
