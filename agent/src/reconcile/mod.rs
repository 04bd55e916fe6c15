//! One reconciler per concern: desired state, actual state, operations.
//!
//! ```text
//! dirty, retry due or waiting --> reconcile(state, kernel) --> Ok        condition cleared
//!                                                              Waiting   evaluated in every pass
//!                                                              Failed    retried with backoff
//!                                                              Degraded  condition, no retry
//! ```
//! A failed reconciler does not stop the others. One that depends on another reads its result
//! or condition from [`State`]; reconcilers do not import each other. A new concern is a file, a
//! variant of [`Concern`] and a line in [`Reconcilers::all`].

mod cni_files;
mod devices;
mod forwarding;
mod growth;
mod health_check_ports;
mod host_ports;
mod host_state;
mod lease_rows;
mod leases;
mod migration;
mod node_config;
mod other_networks;
mod pins;
mod pod_mtu;
mod pod_netns;
mod pods;
mod policy;
mod routes;
mod service_maps;
mod socket_programs;
mod stale_pins;
mod stale_sockets;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeMap;
use std::time::Instant;

use sluice_bpf::error_chain;
use sluice_core::table::{Table, Write, difference};

use crate::backoff::Backoff;
use crate::conditions::{Concern, Status};
use crate::kernel::{Kernel, KernelError};
use crate::state::State;

/// Most passes in a row. A reconciler may mark an earlier one; two that mark each other must not
/// prevent the loop from reading events.
const PASSES: usize = 4;

/// Brings one concern to its desired state.
pub trait Reconciler {
    /// The concern.
    fn concern(&self) -> Concern;

    /// Compares and acts. May be called at any time; does nothing if nothing differs.
    ///
    /// # Errors
    /// The desired state was not reached, and why.
    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled>;
}

/// Why a concern is not in its desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReconciled {
    /// A precondition does not hold. The reconciler is called in every pass until it does.
    Waiting(&'static str),
    /// An operation failed. The reconciler is called again after a delay.
    Failed(String),
    /// Objects or configuration have to change. The reconciler is called again when they do.
    Degraded(String),
}

impl From<KernelError> for NotReconciled {
    fn from(e: KernelError) -> NotReconciled {
        NotReconciled::Failed(error_chain(&e))
    }
}

/// Why reconcilers wait that need the uplink.
const NO_UPLINK: NotReconciled = NotReconciled::Waiting("no uplink is known");

/// Why attachments wait after a replacement of the tables.
const TABLES_EMPTY: NotReconciled =
    NotReconciled::Waiting("the maps have not been written; earlier programs stay attached");

/// A failure that lists several objects; success if there are none.
fn all_or_failed(failures: &[String]) -> Result<(), NotReconciled> {
    if failures.is_empty() { Ok(()) } else { Err(NotReconciled::Failed(failures.join("; "))) }
}

/// Writes what differs in a map that depends on no other. Returns the number of rows.
fn repair_rows<T: Table>(
    found: &BTreeMap<T::Key, T::Value>,
    wanted: &BTreeMap<T::Key, T::Value>,
    kernel: &mut dyn Kernel,
) -> Result<usize, NotReconciled> {
    // Whatever the capacity: a full map has room for new rows after the deletions.
    let difference = difference::<T>(found, wanted, u32::MAX);
    let count = difference.puts.len() + difference.deletes.len();
    let writes = [Write::delete::<T>(difference.deletes), Write::put::<T>(difference.puts)];
    for write in writes.iter().flatten() {
        kernel.write(write)?;
    }
    Ok(count)
}

/// A reconciler and when it runs again.
struct Scheduled {
    reconciler: Box<dyn Reconciler>,
    backoff: Backoff,
    waiting: bool,
}

/// All reconcilers in their order.
pub struct Reconcilers {
    all: Vec<Scheduled>,
    clock: Clock,
}

/// The present time; that of the state is the start of the pass.
type Clock = Box<dyn Fn() -> Instant + Send>;

impl Reconcilers {
    /// Every reconciler. A reconciler precedes those that depend on its result.
    pub fn all() -> Reconcilers {
        Reconcilers::new(vec![
            Box::new(pins::ReconcilePins),
            Box::new(host_state::ReconcileHostState),
            Box::new(devices::ReconcileDevices::default()),
            Box::new(socket_programs::ReconcileSocketPrograms::default()),
            Box::new(forwarding::ReconcileForwarding::default()),
            Box::new(service_maps::ReconcileServiceMaps::default()),
            // Before the programs that use them.
            Box::new(policy::ReconcilePolicy::default()),
            Box::new(growth::ReconcileGrowth::default()),
            Box::new(routes::ReconcileRoutes::default()),
            Box::new(devices::ReconcileDeviceMap),
            Box::new(node_config::ReconcileNodeConfig),
            // Before the programs that use it.
            Box::new(pod_netns::ReconcilePodNetns),
            Box::new(migration::ReconcileMigration),
            Box::new(pods::ReconcilePods::default()),
            Box::new(host_ports::ReconcileHostPorts::default()),
            Box::new(pod_mtu::ReconcilePodMtu::default()),
            Box::new(leases::ReconcileLeases),
            Box::new(stale_sockets::ReconcileStaleSockets::default()),
            Box::new(health_check_ports::ReconcileHealthCheckPorts),
            Box::new(cni_files::ReconcileCniFiles::default()),
            Box::new(stale_pins::ReconcileStalePins),
            Box::new(other_networks::ReconcileOtherNetworks),
        ])
    }

    fn new(reconcilers: Vec<Box<dyn Reconciler>>) -> Reconcilers {
        let schedule =
            |reconciler| Scheduled { reconciler, backoff: Backoff::default(), waiting: false };
        let all = reconcilers.into_iter().map(schedule).collect();
        // The clock of the event loop, which tests stop.
        let clock = Box::new(|| tokio::time::Instant::now().into_std());
        Reconcilers { all, clock }
    }

    /// Runs every reconciler that is due, until no concern is dirty.
    pub fn run(&mut self, state: &mut State, kernel: &mut dyn Kernel) {
        if state.take_resync() {
            state.mark(self.all.iter().map(|s| s.reconciler.concern()));
        }
        for _ in 0..PASSES {
            for scheduled in &mut self.all {
                scheduled.run_if_due(state, kernel, &self.clock);
            }
            if !state.is_dirty() {
                return;
            }
        }
    }

    /// When the first retry is due, if any reconciler failed.
    pub fn next_retry(&self) -> Option<Instant> {
        self.all.iter().filter_map(|s| s.backoff.retry_at()).min()
    }
}

impl Scheduled {
    fn run_if_due(&mut self, state: &mut State, kernel: &mut dyn Kernel, clock: &Clock) {
        let now = state.now();
        let concern = self.reconciler.concern();
        let dirty = state.take_dirty(concern);
        if !dirty && !self.waiting && !self.backoff.is_due(now) {
            return;
        }
        let result = self.reconciler.reconcile(state, kernel);
        self.waiting = matches!(result, Err(NotReconciled::Waiting(_)));
        if matches!(result, Err(NotReconciled::Failed(_))) {
            self.backoff.failed(clock());
        } else {
            self.backoff.succeeded();
        }
        let (status, message) = match result {
            Ok(()) => return state.conditions.clear(concern),
            Err(NotReconciled::Waiting(reason)) => (Status::Waiting, reason.to_owned()),
            Err(NotReconciled::Failed(error)) => (Status::Failed, error),
            Err(NotReconciled::Degraded(reason)) => (Status::Degraded, reason),
        };
        state.conditions.set(concern, status, message, now);
    }
}
