//! Larger maps for tables that do not fit into the present ones.
//!
//! The reconcilers of the Service maps and of policies say how many entries are needed. The programs go on
//! with the former maps until the larger ones are written and the reconciler of the migration has switched
//! the hooks. If loading fails for all of them, it is tried for policies alone, and then for Services alone. If
//! that fails too, what fits stays served, policies that do not fit close their pods, and it is tried again.

use sluice_bpf::error_chain;
use sluice_core::diff::Capacity;
use tokio::time::Instant;

use super::{NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// Why maps are not replaced after SIGTERM, which is no failure.
const STOPPING: NotReconciled =
    NotReconciled::Waiting("the agent is stopping; the next one replaces the maps");

/// Replaces the maps.
#[derive(Debug, Default)]
pub struct ReconcileGrowth {
    /// Why the last attempt failed.
    failure: Option<String>,
}

impl Reconciler for ReconcileGrowth {
    fn concern(&self) -> Concern {
        Concern::Growth
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        if state.growth_stopped() {
            return Err(STOPPING);
        }
        if state.growth_waits()
            && let Some(message) = &self.failure
        {
            return Err(NotReconciled::Failed(message.clone()));
        }
        let mut failure = None;
        for wanted in state.growth_attempts() {
            match kernel.grow(&wanted) {
                Ok(grown) => {
                    let (from, to) = (text(&state.capacity()), text(&grown.capacity));
                    tracing::info!(%from, %to, "maps replaced by larger ones");
                    state.set_maps_replaced(grown.capacity, grown.takes_over);
                    break;
                }
                // Policies wait with it: what fits would close the others.
                Err(error) if error.is_unfinished_switch() => {
                    return Err(NotReconciled::Waiting(
                        "the flows of the former maps are not copied yet",
                    ));
                }
                Err(error) if error.is_stopping() => {
                    state.set_growth_stopped();
                    return Err(STOPPING);
                }
                // The first one names what everything needs.
                Err(error) => {
                    failure.get_or_insert_with(|| {
                        format!(
                            "cannot replace the maps by larger ones ({}): {}",
                            text(&wanted),
                            error_chain(&error)
                        )
                    });
                }
            }
        }
        match failure {
            Some(message) if !state.growth_attempts().is_empty() => {
                state.set_growth_failed(Instant::now().into_std());
                self.failure = Some(message.clone());
                Err(NotReconciled::Failed(message))
            }
            _ => Ok(()),
        }
    }
}

fn text(capacity: &Capacity) -> String {
    let maps = capacity.growing().map(|(name, entries)| format!("{name} {entries}"));
    maps.collect::<Vec<_>>().join(", ")
}
