//! Other network software on this node: rules of kube-proxy, a CNI configuration that precedes
//! Sluice's.
//!
//! Nothing is changed: the condition names the problem and the remedy (docs/migration.md). The check
//! is repeated with every resync.

use super::{NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// Reports them.
pub struct ReconcileOtherNetworks;

impl Reconciler for ReconcileOtherNetworks {
    fn concern(&self) -> Concern {
        Concern::OtherNetworks
    }

    fn reconcile(
        &mut self,
        _state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let problems = kernel.other_networks();
        if problems.is_empty() { Ok(()) } else { Err(NotReconciled::Degraded(problems.join("; "))) }
    }
}
