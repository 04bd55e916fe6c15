//! Backend choice: one decision for the socket hooks and the tc hooks.

use sluice_abi::{Addr, Backend, Frontend, PortBe, SlotRange, frontend_flags};
use sluice_packet::select::{self, NoBackend};

use crate::maps::{self, SLOTS};

/// A backend and its id.
#[derive(Clone, Copy)]
pub struct Chosen {
    /// Backend id.
    pub id: u32,
    /// The backend.
    pub backend: Backend,
}

/// The frontend of a destination: the exact one, or the wildcard of a Service address.
#[inline(always)]
pub fn frontend(addr: &Addr, port: PortBe, proto: u8) -> Option<Frontend> {
    match maps::frontend(addr, port, proto) {
        Some(frontend) => Some(frontend),
        None => maps::wildcard_frontend(addr),
    }
}

/// The slots that a frontend has for a client: at least one.
///
/// # Errors
/// There are none, the frontend is a wildcard, or its Service port does not exist.
#[inline(always)]
pub fn slots(frontend: &Frontend, client_on_this_node: bool) -> Result<SlotRange, NoBackend> {
    if frontend.flags & frontend_flags::WILDCARD != 0 {
        return Err(NoBackend::UnknownPort);
    }
    let port = maps::service_port(frontend.service).ok_or(NoBackend::TableIncomplete)?;
    select::slots(frontend, &port, client_on_this_node)
}

/// Chooses a backend from slots by 32 random bits.
///
/// # Errors
/// The slot or the backend does not exist.
#[inline(always)]
pub fn choose(slots: SlotRange, random: u32) -> Result<Chosen, NoBackend> {
    let id = *SLOTS.get(select::slot(slots, random)).ok_or(NoBackend::TableIncomplete)?;
    let backend = maps::backend(id).ok_or(NoBackend::TableIncomplete)?;
    Ok(Chosen { id, backend })
}
