//! The pins of maps and programs.
//!
//! CNI ADD, the other reconcilers and the command line open them by path. The agent holds all of them
//! open, so that removed pins are restored with their contents, and without a change of attached
//! programs. A node without pins is not ready.

use super::{NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// Restores removed pins.
pub struct ReconcilePins;

impl Reconciler for ReconcilePins {
    fn concern(&self) -> Concern {
        Concern::Pins
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let restored = kernel.restore_pins()?;
        if restored > 0 {
            tracing::warn!(restored, "pins were removed by another program, restored");
            state.repaired("pins", restored);
        }
        Ok(())
    }
}
