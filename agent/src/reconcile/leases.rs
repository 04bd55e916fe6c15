//! Leases of sandboxes that ended without CNI DEL: a reboot, a crash in the middle of ADD.
//!
//! The veth pair ends with the sandbox's network namespace, so a lease without a device is left
//! over. The lease of an ADD that still runs has no device yet and counts as live by its age
//! ([`HostLinks::is_live`]).

use sluice_pod::inventory::HostLinks;

use super::{NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// Releases leases that are left over.
pub struct ReconcileLeases;

impl Reconciler for ReconcileLeases {
    fn concern(&self) -> Concern {
        Concern::Leases
    }

    fn reconcile(
        &mut self,
        _state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        // The clock first: a lease that is older than every running ADD by then has its device when
        // the devices are listed, however long the agent is stopped in between.
        let now = kernel.boot_instant()?;
        let leases = kernel.leases()?;
        let links = HostLinks::from_links(kernel.links()?);
        let left_over: Vec<_> =
            leases.into_iter().filter(|lease| !links.is_live(lease, &now)).collect();
        if left_over.is_empty() {
            return Ok(());
        }
        kernel.release_leases(&left_over)?;
        for lease in &left_over {
            tracing::info!(
                pod = %lease.owner(),
                address = %lease.address,
                "lease of a removed sandbox released"
            );
        }
        Ok(())
    }
}
