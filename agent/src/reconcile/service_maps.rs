//! The maps of Services and networks: FRONTENDS, SLOTS, BACKENDS, NETWORKS.
//!
//! ```text
//! desired tables --plan--> batches --write--> kernel
//!                   ^                           | a write failed, or the comparison is due
//!                   +------- read back <--------+
//! ```

use std::collections::BTreeSet;
use std::time::Instant;

use sluice_abi::Backend;
use sluice_core::diff::Capacity;
use sluice_core::{Changed, Plan, ReadBack, RealizedState};

use super::{NotReconciled, Reconciler};
use crate::conditions::{Concern, Status};
use crate::kernel::Kernel;
use crate::state::State;

/// Most plans in a row. Rows that did not fit are planned again after the deletions of a plan;
/// quarantined slots become free two plans after their release.
const PLANS: usize = 4;

/// Plans and writes the rows that differ.
#[derive(Debug)]
pub struct ReconcileServiceMaps {
    capacity: Capacity,
    /// The rows in the kernel; `None` if they have to be read (again).
    realized: Option<RealizedState>,
    /// The state before a failed write or before a comparison: the ids and slots that it used are
    /// not reused at once.
    former: Option<RealizedState>,
    /// Differences that are not written yet.
    unwritten: Changed,
    /// UDP backends that plans with a failed write removed.
    stale_udp: BTreeSet<Backend>,
}

impl Reconciler for ReconcileServiceMaps {
    fn concern(&self) -> Concern {
        Concern::ServiceMaps
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        if state.take_comparison() {
            self.require_read_back();
        }
        if self.realized.is_none() {
            self.read_back(kernel)?;
        }
        if !state.synced() {
            return Err(NotReconciled::Waiting("not every kind of object has been listed"));
        }
        self.unwritten.merge(state.take_changed());
        for _ in 0..PLANS {
            let plan = self.plan_and_write(state, kernel)?;
            report_capacity(state, &plan);
            let again = plan.worth_retrying();
            state.add_stale_udp(plan.stale_udp);
            if !again {
                break;
            }
        }
        // A backend may have returned since the failed write.
        let stale_udp = state.not_desired(std::mem::take(&mut self.stale_udp));
        state.add_stale_udp(stale_udp);
        state.set_tables_written();
        Ok(())
    }
}

impl ReconcileServiceMaps {
    /// A reconciler that has not read the maps yet.
    pub fn new(capacity: Capacity) -> ReconcileServiceMaps {
        ReconcileServiceMaps {
            capacity,
            realized: None,
            former: None,
            unwritten: Changed::default(),
            stale_udp: BTreeSet::new(),
        }
    }

    /// Makes the next call read the rows back.
    fn require_read_back(&mut self) {
        if let Some(realized) = self.realized.take() {
            self.former = Some(realized);
        }
    }

    fn read_back(&mut self, kernel: &mut dyn Kernel) -> Result<(), NotReconciled> {
        let started = Instant::now();
        let found = ReadBack::read(|table, keys| match keys {
            None => kernel.read(table),
            Some(keys) => kernel.read_keys(table, keys),
        })?;
        self.realized = Some(match self.former.take() {
            Some(mut former) => {
                former.resync(found);
                former
            }
            None => {
                tracing::info!(
                    frontends = found.frontends.len(),
                    backends = found.backends.len(),
                    networks = found.networks.len(),
                    duration = ?started.elapsed(),
                    "maps read back"
                );
                RealizedState::with_capacity(found, self.capacity)
            }
        });
        Ok(())
    }

    /// Plans the differences and writes them. After a failed write, the rows are read back before
    /// the next plan.
    fn plan_and_write(
        &mut self,
        state: &State,
        kernel: &mut dyn Kernel,
    ) -> Result<Plan, NotReconciled> {
        let Some(realized) = &mut self.realized else { return Ok(Plan::default()) };
        let plan = realized.plan(state.tables(), &self.unwritten);
        for write in &plan.writes {
            if let Err(e) = kernel.write(write) {
                self.stale_udp.extend(plan.stale_udp);
                self.require_read_back();
                return Err(e.into());
            }
        }
        self.unwritten = Changed::default();
        match (plan.rows(), state.tables_written()) {
            (0, _) => {}
            (rows, false) => tracing::info!(rows, "maps written for the first time"),
            (rows, true) => tracing::debug!(rows, "maps written"),
        }
        Ok(plan)
    }
}

fn report_capacity(state: &mut State, plan: &Plan) {
    if plan.over_capacity.is_empty() {
        state.conditions.clear(Concern::Capacity);
    } else {
        let lines: Vec<String> = plan.over_capacity.iter().map(ToString::to_string).collect();
        let now = state.now();
        state.conditions.set(Concern::Capacity, Status::Degraded, lines.join("; "), now);
    }
}
