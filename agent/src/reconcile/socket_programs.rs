//! Socket programs at the root of the cgroup hierarchy.

use super::{NotReconciled, Reconciler, TABLES_EMPTY};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// Attaches the socket programs, again if another program detached them.
#[derive(Debug, Default)]
pub struct ReconcileSocketPrograms {
    attached: bool,
}

impl Reconciler for ReconcileSocketPrograms {
    fn concern(&self) -> Concern {
        Concern::SocketPrograms
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        if !state.may_attach() {
            return Err(TABLES_EMPTY);
        }
        let changed = kernel.attach_sockets()?;
        if changed > 0 {
            tracing::info!(changed, "socket programs attached");
        }
        if std::mem::replace(&mut self.attached, true) {
            state.repaired("socket_programs", changed);
        }
        Ok(())
    }
}
