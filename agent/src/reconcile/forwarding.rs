//! Forwarding sysctls of the node and of the uplink.

use super::{NO_UPLINK, NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// Enables forwarding.
#[derive(Debug, Default)]
pub struct ReconcileForwarding {
    /// The uplink on which it was enabled.
    enabled: Option<String>,
}

impl Reconciler for ReconcileForwarding {
    fn concern(&self) -> Concern {
        Concern::Forwarding
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let uplink = state.uplink().ok_or(NO_UPLINK)?.link.name.clone();
        let changed = kernel.enable_forwarding(&uplink)?;
        if self.enabled.replace(uplink.clone()).is_some_and(|enabled| enabled == uplink) && changed
        {
            tracing::warn!(device = %uplink, "forwarding was disabled by another program, enabled");
            state.repaired("forwarding", 1);
        }
        Ok(())
    }
}
