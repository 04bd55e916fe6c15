//! MTU of running pods.
//!
//! The CNI configuration gives new pods the uplink's MTU. When the uplink's MTU changes, pods that
//! have the former one follow: otherwise they send packets that exceed it. Another MTU was chosen
//! by other software (a `tuning` plugin after Sluice) and is left alone.

use sluice_bpf::error_chain;
use sluice_pod::inventory::HostLinks;

use super::{NO_UPLINK, NotReconciled, Reconciler, all_or_failed};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// Sets the MTU of pods that have a former MTU of the uplink.
#[derive(Debug, Default)]
pub struct ReconcilePodMtu {
    /// Whether the former MTUs that an earlier agent stored are known.
    restored: bool,
}

impl Reconciler for ReconcilePodMtu {
    fn concern(&self) -> Concern {
        Concern::PodMtu
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        if !self.restored {
            // With a configured MTU, pods do not follow the uplink.
            let stored = kernel.old_mtus()?;
            if state.config().mtu.is_none() {
                stored.into_iter().for_each(|mtu| state.add_old_mtu(mtu));
            }
            self.restored = true;
        }
        if state.old_mtus().is_empty() {
            return Ok(());
        }
        let mtu = state.pod_mtu().ok_or(NO_UPLINK)?;
        let links = HostLinks::from_links(kernel.links()?);
        let (mut changed, mut failures) = (0, Vec::new());
        for lease in kernel.leases()? {
            let Some(link) = links.of(&lease) else { continue };
            if link.mtu == mtu || !state.old_mtus().contains(&link.mtu) {
                continue;
            }
            match kernel.set_pod_mtu(&lease, mtu) {
                Ok(done) => changed += usize::from(done),
                Err(e) => failures.push(format!("pod {}: {}", lease.owner(), error_chain(&e))),
            }
        }
        if changed > 0 {
            tracing::info!(mtu, pods = changed, "MTU of pods changed");
        }
        all_or_failed(&failures)?;
        if state.forget_old_mtus(mtu) {
            kernel.store_old_mtus(state.old_mtus())?;
        }
        Ok(())
    }
}
