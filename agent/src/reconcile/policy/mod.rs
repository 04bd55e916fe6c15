//! The maps of policies: POD_POLICY, POLICY_CLASSES, POLICY_NETWORKS, POLICY_PEERS, POLICY_PORTS,
//! OPEN_NAMESPACES, POLICY_EPOCH.
//!
//! ```text
//! leases, changed objects --compile--> steps --write--> kernel
//! start, failed write, row of another program, larger maps --> read back --Step::recovery-->
//!     remove unused rows, close pods, change, open pods
//! ```
//! What does not fit into the present maps is written into larger ones; until then, the former rows stay in
//! force. If the maps cannot be replaced, what fits is written and the rest closed.
//!
//! A namespace opens after the rows of the same change are in force: otherwise, its pods would reach servers that
//! the change isolates. So namespaces that close are written at once, and those that open wait while the rows
//! wait for larger maps or for the switch of the hooks to them: `OPEN_NAMESPACES` is not replaced.
//!
//! The rows of a former agent stay in force until all lists have arrived. Only the namespaces without policies
//! are brought up to date before, in both directions: a list can be missing for long, and pods there must not wait
//! for it. They reach what the rows of the former agent admit, as pods of other nodes do.

mod comparison;
mod read_back;

use sluice_core::ObjectName;
use sluice_core::model::Uid;
use sluice_core::policy::{LocalPod, RowChange, Step};
use sluice_core::table::{OpenNamespaces, PolicyEpochs, Table, Write};
use sluice_pod::lease::Lease;
use tokio::time::Instant;

use self::comparison::Comparison;
use self::read_back::Found;
use super::walk::{Progress, UNCOUNTED_MAX};
use super::{NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// Length of a UUID with dashes. Static pods have a hash instead, which their Pod object has not.
const UUID_LENGTH: usize = 36;

/// Compiles policies, writes the rows that differ and repairs those of other programs.
#[derive(Debug, Default)]
pub struct ReconcilePolicy {
    /// The rows of pods and namespaces as they were written; `None` if they have to be read (again).
    realized: Option<Found>,
    /// [`State::maps_replaced`] when the rows were read.
    replaced: u32,
    /// The epoch when the rows had to be read again.
    last_epoch: Option<u32>,
    /// A step was not carried out completely: flows may have been judged by a part of it.
    interrupted: bool,
    /// The rows were written since the agent started.
    recovered: bool,
    /// A row differs that no write of this agent explains.
    foreign: bool,
    /// The comparison that is under way.
    comparison: Option<Comparison>,
    /// Namespaces have to be opened when the hooks are switched.
    openings_wait: bool,
    /// When the first change was compiled whose rows are not written yet: they may wait for larger maps.
    started: Option<Instant>,
    /// Comparisons in a row during which rows were written.
    uncounted: u32,
}

impl Reconciler for ReconcilePolicy {
    fn concern(&self) -> Concern {
        Concern::Policy
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let local = local_pods(&kernel.leases()?);
        if !state.policies_listed() {
            let [closing, opening] = namespace_writes(&local, state, kernel)?;
            write_all([closing, opening], kernel)?;
            return Err(NotReconciled::Waiting("not every kind of object has been listed"));
        }
        if std::mem::replace(&mut self.replaced, state.maps_replaced()) != state.maps_replaced() {
            self.require_read_back();
        }
        let started = *self.started.get_or_insert_with(Instant::now);
        let mut steps = state.update_policies(local);
        if state.require_policy_entries() {
            // These steps are made up for by those of a recovery.
            self.require_read_back();
            let [closing, _] = namespace_writes(state.policy_pods(), state, kernel)?;
            write_all([closing], kernel)?;
            return Err(NotReconciled::Waiting("the maps are replaced by larger ones"));
        }
        if !steps.is_empty() && state.policy_steps_need_recovery() {
            self.require_read_back();
        }
        let rows = if let Some(realized) = &self.realized {
            if state.may_attach() && std::mem::take(&mut self.openings_wait) {
                steps.push(realized.openings(state.policies().open_namespaces()));
            }
            self.hold_openings_back(&mut steps, state);
            self.write_steps(&steps, kernel)?
        } else {
            self.recover(state, kernel)?
        };
        if rows > 0 {
            state.set_policies_programmed(started.elapsed());
            tracing::debug!(rows, duration = ?started.elapsed(), "policies written");
        }
        self.started = None;
        state.set_policies_written();
        self.check(state, kernel)?;
        if state.lacks_pods_for_policies() {
            let message = "policies need all Pods: Pods of other nodes are unknown, so rules that \
                           allow do not match them and rules that deny match all of them; remove \
                           --watch-pods=node";
            return Err(NotReconciled::Degraded(message.to_owned()));
        }
        Ok(())
    }
}

impl ReconcilePolicy {
    /// Takes namespaces that open out of steps while attached programs may read other maps of policies.
    fn hold_openings_back(&mut self, steps: &mut [Step], state: &State) {
        if state.may_attach() {
            return;
        }
        for step in steps {
            self.openings_wait |= !step.open_namespaces.puts.is_empty();
            step.open_namespaces.puts.clear();
        }
    }

    /// Carries steps out. Returns the number of rows.
    fn write_steps(
        &mut self,
        steps: &[Step],
        kernel: &mut dyn Kernel,
    ) -> Result<usize, NotReconciled> {
        let mut rows = 0;
        for step in steps {
            let Some(realized) = &mut self.realized else { break };
            for write in realized.writes(step) {
                if let Err(e) = kernel.write(&write) {
                    self.require_read_back();
                    self.interrupted = true;
                    return Err(e.into());
                }
                rows += write.len();
            }
            realized.written(step);
            if let Some(comparison) = &mut self.comparison {
                comparison.written(step);
            }
        }
        Ok(rows)
    }

    /// Reads all rows and writes those that differ. Returns their number.
    fn recover(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<usize, NotReconciled> {
        let (mut found, rows) = Found::read(kernel)?;
        let wanted = state.policies().rows();
        let interrupted = self.interrupted || found.is_ahead();
        let epoch = found.epoch;
        found.catch_up(self.last_epoch);
        let rejudge = interrupted || found.epoch != epoch;
        let capacity = state.capacity().policy_classes;
        // Flows may have been judged by other tables: those of the version that is active.
        let takes_over = !self.recovered && !state.may_attach();
        let mut steps =
            Step::recovery(capacity, rows, &wanted, state.policy_pods(), rejudge || takes_over);
        self.openings_wait = false;
        self.hold_openings_back(&mut steps, state);
        let mut writes = Vec::new();
        if steps.iter().all(|step| step.pods.is_empty()) && found.epoch != epoch {
            writes.extend(Write::put::<PolicyEpochs>([(0, found.epoch)]));
        }
        for step in &steps {
            writes.extend(found.writes(step));
            found.written(step);
        }
        let mut count = 0;
        for write in writes {
            if let Err(e) = kernel.write(&write) {
                self.interrupted = true;
                return Err(e.into());
            }
            count += write.len();
        }
        if count > 0 {
            tracing::info!(
                rows = count,
                pods = wanted.pods.len(),
                "policies written after a read back"
            );
        }
        if std::mem::take(&mut self.foreign) {
            state.repaired("policy_rows", count);
        }
        self.interrupted = false;
        self.recovered = true;
        self.realized = Some(found);
        Ok(count)
    }

    /// Makes the next call read the rows.
    fn require_read_back(&mut self) {
        if let Some(realized) = self.realized.take() {
            self.last_epoch = Some(realized.epoch);
        }
        self.comparison = None;
    }

    /// Compares what is due, and repairs in this call what differs.
    fn check(&mut self, state: &mut State, kernel: &mut dyn Kernel) -> Result<(), NotReconciled> {
        let due = state.take_policy_check();
        if due.pods
            && let Some(realized) = &self.realized
            && !realized.holds(kernel)?
        {
            self.repair(state, kernel)?;
        }
        if due.all && std::mem::take(&mut self.uncounted) >= UNCOUNTED_MAX {
            self.repair(state, kernel)?;
        } else if due.all && self.comparison.is_none() {
            self.comparison = Some(Comparison::new(state.policies().rows()));
        }
        let Some(comparison) = &mut self.comparison else { return Ok(()) };
        let progress = comparison.step(kernel)?;
        state.poll_policies(progress == Progress::More);
        match progress {
            Progress::More => return Ok(()),
            Progress::Equal => self.uncounted = 0,
            Progress::Uncounted => self.uncounted += 1,
            Progress::Differs => self.repair(state, kernel)?,
        }
        self.comparison = None;
        Ok(())
    }

    fn repair(&mut self, state: &mut State, kernel: &mut dyn Kernel) -> Result<(), NotReconciled> {
        self.require_read_back();
        self.foreign = true;
        let rows = self.recover(state, kernel)?;
        if rows > 0 {
            tracing::warn!(rows, "rows of policies were changed by another program");
        }
        Ok(())
    }
}

/// The pods of these leases.
fn local_pods(leases: &[Lease]) -> Vec<LocalPod> {
    let uid = |text: &str| (text.len() == UUID_LENGTH).then(|| Uid::from_api(text)).flatten();
    let name = |lease: &Lease| {
        let namespace = lease.pod_namespace.as_deref()?;
        Some(ObjectName::new(namespace, lease.pod_name.as_deref().unwrap_or_default()))
    };
    leases
        .iter()
        .map(|lease| LocalPod {
            // Below the capacity of the maps.
            index: lease.index as u16,
            generation: lease.row_generation(),
            address: lease.address.into(),
            name: name(lease),
            uid: lease.pod_uid.as_deref().and_then(uid),
        })
        .collect()
}

/// The writes that bring the namespaces without policies up to date: those that close, those that open. None until
/// policies and Namespaces have been listed.
fn namespace_writes(
    local: &[LocalPod],
    state: &State,
    kernel: &mut dyn Kernel,
) -> Result<[Option<Write>; 2], NotReconciled> {
    let Some(wanted) = state.open_namespaces(local) else { return Ok([None, None]) };
    let found = kernel.read(OpenNamespaces::SPEC)?.typed::<OpenNamespaces>().collect();
    let RowChange { puts, deletes } = RowChange::between(&found, &wanted);
    Ok([Write::delete::<OpenNamespaces>(deletes), Write::put::<OpenNamespaces>(puts)])
}

fn write_all<const N: usize>(
    writes: [Option<Write>; N],
    kernel: &mut dyn Kernel,
) -> Result<(), NotReconciled> {
    for write in writes.iter().flatten() {
        kernel.write(write)?;
    }
    Ok(())
}
