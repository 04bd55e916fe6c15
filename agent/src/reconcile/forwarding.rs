//! Forwarding sysctls of the node and of the uplink.

use super::{NO_UPLINK, NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// Enables forwarding.
pub struct ReconcileForwarding;

impl Reconciler for ReconcileForwarding {
    fn concern(&self) -> Concern {
        Concern::Forwarding
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let uplink = state.uplink().ok_or(NO_UPLINK)?;
        Ok(kernel.enable_forwarding(&uplink.link.name)?)
    }
}
