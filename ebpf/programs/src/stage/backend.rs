//! Backend choice: one decision for the socket hooks and the tc hooks.

use sluice_abi::{Addr, Backend, Frontend, PortBe};
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

/// Chooses a backend of a frontend by 32 random bits.
///
/// # Errors
/// The frontend has no slots, or refers to a slot or backend that does not exist.
#[inline(always)]
pub fn choose(frontend: &Frontend, random: u32) -> Result<Chosen, NoBackend> {
    let slot = select::slot(frontend, random)?;
    let id = *SLOTS.get(slot).ok_or(NoBackend::TableIncomplete)?;
    let backend = maps::backend(id).ok_or(NoBackend::TableIncomplete)?;
    Ok(Chosen { id, backend })
}
