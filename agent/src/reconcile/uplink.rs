//! Programs on the uplink, which may move to another device.

use super::{NO_UPLINK, NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// Attaches the uplink programs, and detaches them from a former uplink.
#[derive(Debug, Default)]
pub struct ReconcileUplink {
    /// Index of the device that has the programs.
    attached: Option<u32>,
}

impl Reconciler for ReconcileUplink {
    fn concern(&self) -> Concern {
        Concern::Uplink
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let uplink = state.uplink().ok_or(NO_UPLINK)?;
        let ifindex = uplink.link.index;
        let changed = kernel.attach_uplink(ifindex)?;
        if changed {
            tracing::info!(device = %uplink.link.name, "uplink programs attached");
        }
        if let Some(former) = self.attached.filter(|former| *former != ifindex) {
            kernel.detach_uplink(former)?;
        }
        self.attached = Some(ifindex);
        Ok(())
    }
}
