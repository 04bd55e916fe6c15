//! UDP sockets that are connected to removed backends.

use super::{NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::{Kernel, Peer};
use crate::state::State;

/// Closes the sockets, once the backends are removed from the maps.
pub struct ReconcileStaleSockets;

impl Reconciler for ReconcileStaleSockets {
    fn concern(&self) -> Concern {
        Concern::StaleSockets
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let stale = state.take_stale_udp();
        if stale.is_empty() {
            return Ok(());
        }
        let peers = stale.iter().map(|b| -> Peer { (b.addr, b.port) }).collect();
        let result = kernel.leases().and_then(|pods| kernel.destroy_udp_sockets(&peers, &pods));
        if let Err(e) = result {
            state.restore_stale_udp(stale);
            return Err(e.into());
        }
        Ok(())
    }
}
