//! Taking over from the programs of another version.
//!
//! Its programs handle every packet until the tables and the configuration of this version's are
//! written; then all hooks are switched at once, and the other reconcilers replace the programs.

use super::{NotReconciled, Reconciler, TABLES_EMPTY};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// What has to be written before, as far as it can be: a node without ports for masquerading, for example, gets
/// its changes of Services all the same.
const AFTER: [Concern; 3] = [Concern::ServiceMaps, Concern::DeviceMap, Concern::NodeConfig];

/// Why programs wait that drop what pods send until their policies are known.
const POLICIES_MISSING: NotReconciled = NotReconciled::Waiting(
    "the policies have not been written; programs of another version stay attached",
);

/// Switches the hooks, once.
pub struct ReconcileMigration;

impl Reconciler for ReconcileMigration {
    fn concern(&self) -> Concern {
        Concern::Migration
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        if state.may_attach() {
            return Ok(());
        }
        if !state.tables_written() || state.conditions.any_pending(&AFTER) {
            return Err(TABLES_EMPTY);
        }
        if !state.policies_written() || state.conditions.failed(Concern::Policy).is_some() {
            return Err(POLICIES_MISSING);
        }
        let done = kernel.hand_over()?;
        tracing::info!(
            from = done.from.as_deref().unwrap_or("an earlier agent"),
            flows_copied = done.flows.written,
            flows_left_out = done.flows.left_out,
            took = ?done.took,
            "taken over from another version"
        );
        state.set_taken_over();
        Ok(())
    }
}
