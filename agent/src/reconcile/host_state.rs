//! Devices, addresses and default route of the node; the choice of the uplink.

use super::{NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// Reads the node's network into [`State`].
pub struct ReconcileHostState;

impl Reconciler for ReconcileHostState {
    fn concern(&self) -> Concern {
        Concern::HostState
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let host = kernel.host_state()?;
        match state.observe_host(host) {
            Ok(()) => Ok(()),
            // InternalIPs of the Node object may still select a device.
            Err(_) if state.this_node().is_none() => {
                Err(NotReconciled::Waiting("the Node object of this node has not arrived"))
            }
            Err(e) => Err(NotReconciled::Failed(e.to_string())),
        }
    }
}
