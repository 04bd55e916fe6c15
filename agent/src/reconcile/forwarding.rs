//! Forwarding sysctls of the node and of the devices with programs.

use std::collections::BTreeSet;

use sluice_bpf::error_chain;

use super::{NO_UPLINK, NotReconciled, Reconciler, all_or_failed};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// Enables forwarding.
#[derive(Debug, Default)]
pub struct ReconcileForwarding {
    /// The devices on which it was enabled.
    enabled: BTreeSet<String>,
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
        state.uplink().ok_or(NO_UPLINK)?;
        let managed = state.devices().iter().filter(|device| device.is_managed());
        let desired: BTreeSet<String> = managed.map(|device| device.link.name.clone()).collect();
        self.enabled.retain(|device| desired.contains(device));
        let mut failures = Vec::new();
        for device in desired {
            match kernel.enable_forwarding(&device) {
                Ok(changed) => {
                    if !self.enabled.insert(device.clone()) && changed {
                        tracing::warn!(%device, "forwarding was disabled by another program; enabled again");
                        state.repaired("forwarding", 1);
                    }
                }
                Err(e) => failures.push(error_chain(&e)),
            }
        }
        all_or_failed(&failures)
    }
}
