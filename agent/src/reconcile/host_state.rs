//! Devices, addresses and routes of the node; the choice of the uplink and of the devices with programs.

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
        let former = state.host().ephemeral_ports;
        state.observe_host(kernel.host_state()?);
        if state.host().ephemeral_ports != former {
            state.mark([Concern::NodeConfig]);
        }
        if state.this_node().is_none() {
            // InternalIPs of the Node object select the uplink: a choice without them would change
            // programs, NODE_CONFIG and MTU of running pods for a moment.
            return match state.uplink() {
                None => Err(NotReconciled::Waiting("the Node object of this node has not arrived")),
                Some(_) => Ok(()),
            };
        }
        state.choose_devices().map_err(|e| NotReconciled::Failed(e.to_string()))
    }
}
