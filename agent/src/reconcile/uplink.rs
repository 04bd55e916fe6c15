//! Programs on the uplink, which may move to another device.

use std::collections::BTreeSet;

use sluice_bpf::error_chain;

use super::{NO_UPLINK, NotReconciled, Reconciler, TABLES_EMPTY, all_or_failed};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// Attaches the uplink programs, and detaches them from former uplinks.
#[derive(Debug, Default)]
pub struct ReconcileUplink {
    /// Index of the device that has the programs.
    attached: Option<u32>,
    /// Devices that may still have them.
    former: BTreeSet<u32>,
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
        if !state.may_attach() {
            return Err(TABLES_EMPTY);
        }
        let changed = kernel.attach_uplink(ifindex)?;
        if changed {
            tracing::info!(device = %uplink.link.name, "uplink programs attached");
        }
        if self.attached == Some(ifindex) {
            state.repaired("uplink_programs", usize::from(changed));
        }
        self.former.extend(self.attached.replace(ifindex));
        self.former.remove(&ifindex);
        let mut failures = Vec::new();
        self.former.retain(|former| match kernel.detach_uplink(*former) {
            Ok(()) => false,
            Err(e) => {
                failures.push(error_chain(&e));
                true
            }
        });
        all_or_failed(&failures)
    }
}
