//! Pins of another ABI version, left by the agent before an upgrade.
//!
//! Until the uplink, the cgroup root and every pod have the present programs, the old ones carry
//! traffic; until the CNI binary is replaced, the old one opens the old pins. The same is true of pins of
//! this version that were set aside when a map grew.

use super::{NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// What has to be in its desired state before.
const AFTER: [Concern; 5] = [
    Concern::Migration,
    Concern::Devices,
    Concern::SocketPrograms,
    Concern::Pods,
    Concern::CniFiles,
];

/// Removes the pins.
pub struct ReconcileStalePins;

impl Reconciler for ReconcileStalePins {
    fn concern(&self) -> Concern {
        Concern::StalePins
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        if state.conditions.any(&AFTER) {
            return Err(NotReconciled::Waiting("old programs may be attached"));
        }
        if kernel.stale_pins()?.is_empty() {
            return Ok(());
        }
        if state.pins_age() < state.config().stale_pin_grace_period {
            return Err(NotReconciled::Waiting("an ADD may run that uses the former pins"));
        }
        for version in kernel.remove_stale_pins()? {
            tracing::info!(version, "pins of another ABI version removed");
        }
        Ok(())
    }
}
