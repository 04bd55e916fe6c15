//! UDP sockets that are connected to backends that left their Service.

use std::collections::BTreeSet;

use sluice_core::diff::StaleBackend;

use super::{NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::{Kernel, Peer};
use crate::state::State;

/// Closes the sockets, once the backends are removed from the maps.
#[derive(Debug, Default)]
pub struct ReconcileStaleSockets {
    /// Backends of a failed attempt.
    retried: BTreeSet<StaleBackend>,
}

impl Reconciler for ReconcileStaleSockets {
    fn concern(&self) -> Concern {
        Concern::StaleSockets
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let mut stale = state.take_stale_udp();
        // A backend may have returned since the failed attempt.
        stale.extend(state.not_desired(std::mem::take(&mut self.retried)));
        if stale.is_empty() {
            return Ok(());
        }
        let peers = stale.iter().map(|s| -> Peer { (s.backend.addr, s.backend.port) }).collect();
        let result = kernel.leases().and_then(|pods| kernel.destroy_udp_sockets(&peers, &pods));
        if result.is_err() {
            self.retried = stale;
        }
        Ok(result?)
    }
}
