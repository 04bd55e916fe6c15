//! The maps of Services and networks: FRONTENDS, SERVICES, SOURCE_RANGES, SLOTS,
//! BACKENDS, NETWORKS.
//!
//! ```text
//! desired tables --plan--> batches --write--> kernel
//!                   ^                           | a write failed, or the comparison is due
//!                   +------- read back <--------+
//! ```
//! The comparison reads the maps in parts, one in each call ([`comparison`]).

mod comparison;

use std::time::Instant;

use sluice_core::diff::Capacity;
use sluice_core::{Changed, Plan, ReadBack, RealizedState};

use super::walk::{Progress, UNCOUNTED_MAX, Walk};
use super::{NotReconciled, Reconciler};
use crate::conditions::{Concern, Status};
use crate::findings::{Finding, Reason};
use crate::kernel::Kernel;
use crate::state::conflict::bounded;
use crate::state::{Rows, State};

/// Most plans in one call. A row that did not fit is planned again after the deletions of a plan.
/// Quarantined slots become free two plans later: in a later call, when no program that runs now can
/// hold them.
const PLANS: usize = 2;

/// Rows that do not fit that the condition names.
const NAMED: usize = 10;

/// Plans and writes the rows that differ.
#[derive(Debug, Default)]
pub struct ReconcileServiceMaps {
    /// The capacities of the maps that were read.
    capacity: Capacity,
    /// Whether the maps were large enough for the first tables, or had to stay as they were.
    sized: bool,
    /// The rows in the kernel; `None` if they have to be read (again).
    realized: Option<RealizedState>,
    /// The state before a failed write or before a comparison: the ids and slots that it used are
    /// not reused at once.
    former: Option<RealizedState>,
    /// A row waits for quarantined slots.
    space_pending: bool,
    /// The comparison that is under way.
    comparison: Option<Walk>,
    /// Comparisons in a row during which rows were written.
    uncounted: u32,
    /// Differences that are not written yet.
    unwritten: Changed,
    /// Rows that UDP sockets were translated by ended or lead elsewhere, since the last call that succeeded.
    sockets_differ: bool,
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
            self.start_comparison();
        }
        if self.capacity != state.capacity() {
            self.require_read_back();
        }
        if self.realized.is_none() {
            self.read_back(state.capacity(), kernel)?;
        }
        if !state.synced() {
            return Err(NotReconciled::Waiting("not every kind of object has been listed"));
        }
        self.unwritten.merge(state.take_changed());
        if !std::mem::replace(&mut self.sized, true)
            && state.require_entries(Rows::Services, Some(&Capacity::for_tables(state.tables())))
        {
            // Before the rows are written that would be copied.
            return Err(NotReconciled::Waiting("the maps are replaced by larger ones"));
        }
        self.space_pending = false;
        for attempt in 1..=PLANS {
            let plan = self.plan_and_write(state, kernel)?;
            let again = plan.worth_retrying() && attempt < PLANS;
            self.space_pending = plan.worth_retrying();
            if !again && !state.require_entries(Rows::Services, plan.needed.as_ref()) {
                report_capacity(state, &plan);
            }
            if !again {
                break;
            }
        }
        state.set_tables_written();
        if std::mem::take(&mut self.sockets_differ) {
            state.compare_sockets();
        }
        self.compare_part(state, kernel)
    }
}

impl ReconcileServiceMaps {
    /// Starts a comparison; reads everything back if rows were written during each of the last ones.
    fn start_comparison(&mut self) {
        if self.uncounted >= UNCOUNTED_MAX {
            self.uncounted = 0;
            self.require_read_back();
        } else {
            self.comparison.get_or_insert_default();
        }
    }

    /// Compares one part, and reads everything back if a row differs.
    fn compare_part(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let (Some(comparison), Some(realized)) = (&mut self.comparison, &self.realized) else {
            state.poll_maps(self.space_pending);
            return Ok(());
        };
        let progress = comparison::step(comparison, realized, kernel)?;
        state.poll_maps(self.space_pending || progress == Progress::More);
        match progress {
            Progress::More => return Ok(()),
            Progress::Equal => self.uncounted = 0,
            Progress::Uncounted => self.uncounted += 1,
            Progress::Differs => {
                tracing::warn!("rows of the maps were changed by another program");
                self.require_read_back();
                state.repaired("map_rows", 1);
                state.mark([Concern::ServiceMaps]);
            }
        }
        self.comparison = None;
        Ok(())
    }

    /// Makes the next call read the rows back.
    fn require_read_back(&mut self) {
        self.comparison = None;
        if let Some(realized) = self.realized.take() {
            self.former = Some(realized);
        }
    }

    fn read_back(
        &mut self,
        capacity: Capacity,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let started = Instant::now();
        let found = ReadBack::read(|table, keys| match keys {
            None => kernel.read(table),
            Some(keys) => kernel.read_keys(table, keys),
        })?;
        self.realized = Some(match self.former.take() {
            Some(mut former) if self.capacity == capacity => {
                former.resync(found);
                former
            }
            Some(mut former) => {
                former.replace(found, capacity);
                former
            }
            None => {
                tracing::info!(
                    frontends = found.frontends.len(),
                    services = found.services.len(),
                    backends = found.backends.len(),
                    networks = found.networks.len(),
                    duration = ?started.elapsed(),
                    "maps read back"
                );
                RealizedState::with_capacity(found, capacity)
            }
        });
        self.capacity = capacity;
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
        if let Some(comparison) = self.comparison.as_mut().filter(|_| !plan.writes.is_empty()) {
            comparison.rows_written();
        }
        self.sockets_differ |= plan.affects_udp_sockets();
        for write in &plan.writes {
            if let Err(e) = kernel.write(write) {
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
    let count = plan.over_capacity.len();
    if count == 0 {
        state.conditions.clear(Concern::Capacity);
        return;
    }
    let lines = plan.over_capacity.iter().map(ToString::to_string);
    let message = bounded(lines, count, NAMED, "; ");
    let now = state.now();
    state.conditions.set(Concern::Capacity, Status::Degraded, message, now);
    for error in &plan.over_capacity {
        if let Some(service) = error.service() {
            state.report(Finding::service(service, Reason::NotEnoughCapacity, error.to_string()));
        }
    }
}
