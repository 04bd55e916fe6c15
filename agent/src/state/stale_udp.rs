//! UDP backends whose sockets have to be closed.

use std::collections::BTreeSet;

use sluice_core::diff::StaleBackend;

use super::State;
use crate::conditions::Concern;

impl State {
    /// Records UDP backends that left their Service ports.
    pub fn add_stale_udp(&mut self, backends: impl IntoIterator<Item = StaleBackend>) {
        let before = self.stale_udp.len();
        for stale in backends {
            self.stale_udp.entry(stale.id).or_insert(stale);
        }
        if self.stale_udp.len() > before {
            self.mark([Concern::StaleSockets]);
        }
    }

    /// UDP backends whose sockets have to be closed.
    pub fn take_stale_udp(&mut self) -> BTreeSet<StaleBackend> {
        std::mem::take(&mut self.stale_udp).into_values().collect()
    }

    /// The backends among `backends` that their Service ports still lack.
    pub fn not_desired(&self, mut backends: BTreeSet<StaleBackend>) -> BTreeSet<StaleBackend> {
        if !backends.is_empty() {
            let is_desired = |stale: &StaleBackend| {
                let port = stale.service.as_ref().and_then(|id| self.tables.port(id));
                port.is_some_and(|port| port.usable().any(|backend| *backend == stale.backend))
            };
            backends.retain(|stale| !is_desired(stale));
        }
        backends
    }
}
