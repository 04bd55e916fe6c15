//! Programs, `LOCAL_PODS` rows and the node's half of the paths of the pods on this node.
//!
//! CNI ADD and DEL maintain them without the agent. This reconciler repairs what a crash, an upgrade
//! or another program left: missing or wrong rows, rows of removed pods, missing or old programs on
//! the host ends of the veth pairs, and removed routes, neighbour entries and device settings.
//!
//! ```text
//! start, every 30 s, lost notifications --> all pods, by a dump of each kind
//! notification of a device or address   --> the pod that has it, by one request for each part
//! leases changed                        --> pods whose row is missing
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use sluice_abi::{Addr, LocalPod};
use sluice_bpf::error_chain;
use sluice_core::table::{LocalPods, Pods, Table, Write};
use sluice_pod::inventory::local_pod;
use sluice_pod::lease::{BootInstant, Lease};
use sluice_pod::{HostPath, PathPart};

use super::lease_rows::add_may_run;
use super::{NotReconciled, Reconciler, TABLES_EMPTY, all_or_failed};
use crate::conditions::Concern;
use crate::event::PodScope;
use crate::kernel::{self, Kernel};
use crate::state::State;

/// Most pods that are read one by one.
const SINGLE_READS: usize = 16;

/// Kind of repair: rows of a pod written or deleted.
const POD_ROW: &str = "pod_row";

/// Why rows are not repaired after the first failure.
const LOCK_FAILED: &str = "rows not repaired: the lock of the leases was not free";

type LocalPodRows = BTreeMap<Addr, LocalPod>;

/// Compares leases, devices, rows and paths.
#[derive(Debug, Default)]
pub struct ReconcilePods {
    /// Pods of a failed attempt.
    retried: PodScope,
    /// Devices of pods whose route existed once: their ADD has ended.
    complete: BTreeSet<String>,
    /// Devices of pods whose path is not complete and whose ADD may still run.
    incomplete: BTreeSet<String>,
    /// Devices whose programs are attached by tcx, of which the kernel does not notify.
    by_tcx: BTreeSet<u32>,
}

/// A pod that is compared: its lease, and what the node has of its path.
struct Observed<'a> {
    lease: &'a Lease,
    path: HostPath,
}

#[derive(Debug, Default)]
struct Repairs {
    by_kind: BTreeMap<&'static str, usize>,
    failures: Vec<String>,
    /// Whether the lock of the leases could not be taken. The event loop waits for it once in a pass.
    lock_failed: bool,
}

impl Repairs {
    fn add(&mut self, kind: &'static str) {
        *self.by_kind.entry(kind).or_default() += 1;
    }

    /// Takes the lock of the leases, unless that failed before.
    fn lock<T>(&mut self, lock: impl FnOnce() -> kernel::Result<T>) -> Result<T, String> {
        if self.lock_failed {
            return Err(LOCK_FAILED.to_owned());
        }
        lock().map_err(|e| {
            self.lock_failed = true;
            error_chain(&e)
        })
    }
}

impl Reconciler for ReconcilePods {
    fn concern(&self) -> Concern {
        Concern::Pods
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        if !state.may_attach() {
            return Err(TABLES_EMPTY);
        }
        let mut scope = state.pods.take();
        scope.merge(std::mem::take(&mut self.retried));
        let result = self.compare(&scope, state, kernel);
        if result.is_err() {
            self.retried = scope;
        }
        result
    }
}

impl ReconcilePods {
    fn compare(
        &mut self,
        scope: &PodScope,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let leases = kernel.leases()?;
        let rows: LocalPodRows = kernel.read(LocalPods::SPEC)?.typed::<LocalPods>().collect();
        let now = kernel.boot_instant()?;
        let selected = self.select(scope, &leases, &rows);
        let compared: BTreeSet<Ipv4Addr> = selected.iter().map(|lease| lease.address).collect();
        let observed = observe(scope.all, selected, kernel)?;
        let mut repairs = Repairs::default();
        let routed = leases.iter().filter(|lease| scope.routed.contains(&lease.address));
        self.complete.extend(routed.map(|lease| lease.host_ifname.clone()));
        for pod in &observed {
            self.repair(pod, &rows, &now, kernel, &mut repairs)?;
        }
        delete_rows(&leases, &compared, &observed, &rows, kernel, &mut repairs)?;
        self.remember(state, &leases, &rows, &observed);
        if repairs.by_kind.contains_key(POD_ROW) {
            // They leave out a young pod without this row: its ADD may not have written the others yet.
            state.mark([Concern::PodNetns, Concern::HostPorts]);
        }
        if !repairs.by_kind.is_empty() {
            tracing::info!(pods = observed.len(), repairs = ?repairs.by_kind, "pods repaired");
        }
        for (kind, count) in repairs.by_kind {
            state.repaired(kind, count);
        }
        all_or_failed(&repairs.failures)
    }

    /// The pods to compare.
    fn select<'a>(
        &self,
        scope: &PodScope,
        leases: &'a [Lease],
        rows: &LocalPodRows,
    ) -> Vec<&'a Lease> {
        let is_selected = |lease: &&Lease| {
            let row = rows.get(&lease.address.into());
            let device = |set: &BTreeSet<u32>| row.is_some_and(|row| set.contains(&row.ifindex));
            scope.all
                || row.is_none()
                || scope.addresses.contains(&lease.address)
                || device(&scope.devices)
                || device(&scope.pods)
                || device(&self.by_tcx)
                || self.incomplete.contains(&lease.host_ifname)
        };
        leases.iter().filter(is_selected).collect()
    }

    /// Repairs one pod. A pod without programs gets no row: it must not be reachable unchecked.
    fn repair(
        &mut self,
        pod: &Observed<'_>,
        rows: &LocalPodRows,
        now: &BootInstant,
        kernel: &mut dyn Kernel,
        repairs: &mut Repairs,
    ) -> Result<(), NotReconciled> {
        let Observed { lease, path } = pod;
        let link = &path.link;
        // ADD sets alias and device up in one request, after programs and row: before that, the pod
        // belongs to ADD alone.
        if !link.up && link.alias.is_none() {
            return Ok(());
        }
        match kernel.attach_pod(link.index) {
            Ok(programs) => {
                if programs.changed {
                    repairs.add("pod_programs");
                }
                if programs.by_tcx {
                    self.by_tcx.insert(link.index);
                }
            }
            Err(e) => return fail(lease, &error_chain(&e), kernel, repairs),
        }
        let row = local_pod(lease, link);
        let address = lease.address.into();
        // `rows` were read before the device: its ADD can have written them since.
        let differs = rows.get(&address) != Some(&row)
            && row_of_address(address, kernel)? != Some(row)
            || row_of_index(row.index.into(), kernel)? != row;
        // Rows that have to wait, and a part that cannot be restored, do not keep the others from it.
        let mut failure = None;
        if differs {
            match repairs.lock(|| kernel.lock_lease(lease)) {
                Ok(Some(_locked)) => {
                    if put_rows(address, row, kernel)? {
                        repairs.add(POD_ROW);
                    }
                }
                // Address and index may have another pod by now.
                Ok(None) => return Ok(()),
                Err(error) => failure = Some(error),
            }
        }
        for part in self.parts_to_restore(lease, path, now) {
            match kernel.restore_path(lease, link, part) {
                Ok(()) => repairs.add(kind(part)),
                Err(e) => failure = failure.or_else(|| Some(error_chain(&e))),
            }
        }
        failure.map_or(Ok(()), |failure| fail(lease, &failure, kernel, repairs))
    }

    /// The missing parts, without those that a running ADD has yet to create.
    fn parts_to_restore(
        &mut self,
        lease: &Lease,
        path: &HostPath,
        now: &BootInstant,
    ) -> Vec<PathPart> {
        let device = &lease.host_ifname;
        if path.is_complete() && !self.complete.contains(device) {
            self.complete.insert(device.clone());
        }
        // ADD creates the route last.
        let ended = self.complete.contains(device) || !add_may_run(lease, now);
        if ended || path.missing.is_empty() {
            self.incomplete.remove(device);
        } else {
            self.incomplete.insert(device.clone());
        }
        let by_add = |part: &PathPart| matches!(part, PathPart::Neighbour | PathPart::Route);
        path.missing.iter().copied().filter(|part| ended || !by_add(part)).collect()
    }

    /// Forgets removed pods, and publishes the devices and addresses of the others.
    fn remember(
        &mut self,
        state: &mut State,
        leases: &[Lease],
        rows: &LocalPodRows,
        observed: &[Observed<'_>],
    ) {
        let names: BTreeSet<&str> = leases.iter().map(|l| l.host_ifname.as_str()).collect();
        self.complete.retain(|device| names.contains(device.as_str()));
        self.incomplete.retain(|device| names.contains(device.as_str()));
        let new = observed.iter().map(|pod| pod.path.link.index);
        let devices: BTreeSet<u32> = rows.values().map(|row| row.ifindex).chain(new).collect();
        self.by_tcx.retain(|device| devices.contains(device));
        let addresses = leases.iter().map(|lease| lease.address).collect();
        state.pods.set_known(devices, addresses);
        state.pods.poll = !self.incomplete.is_empty() || !self.by_tcx.is_empty();
    }
}

/// Reads the paths of these pods; pods without a device are left out.
fn observe<'a>(
    all: bool,
    leases: Vec<&'a Lease>,
    kernel: &mut dyn Kernel,
) -> Result<Vec<Observed<'a>>, NotReconciled> {
    let paths = if all || leases.len() > SINGLE_READS {
        kernel.host_paths(&leases)?
    } else {
        leases.iter().map(|lease| kernel.host_path(lease)).collect::<Result<_, _>>()?
    };
    let observed =
        |(lease, path): (&'a Lease, Option<HostPath>)| Some(Observed { lease, path: path? });
    Ok(leases.into_iter().zip(paths).filter_map(observed).collect())
}

/// Records a failure; a pod that was removed meanwhile did not fail.
fn fail(
    lease: &Lease,
    error: &str,
    kernel: &mut dyn Kernel,
    repairs: &mut Repairs,
) -> Result<(), NotReconciled> {
    if kernel.host_path(lease)?.is_some() {
        repairs.failures.push(format!("pod {}: {error}", lease.owner()));
    }
    Ok(())
}

fn kind(part: PathPart) -> &'static str {
    match part {
        PathPart::Device => "pod_device",
        PathPart::Sysctls => "pod_sysctls",
        PathPart::Neighbour => "pod_neighbour",
        PathPart::Route => "pod_route",
    }
}

/// The row of `PODS` with this index; all zero if there is none.
fn row_of_index(index: u32, kernel: &mut dyn Kernel) -> Result<LocalPod, NotReconciled> {
    let rows = kernel.read_keys(Pods::SPEC, &index.to_ne_bytes())?;
    Ok(rows.typed::<Pods>().next().map(|(_, row)| row).unwrap_or_default())
}

/// The row of `LOCAL_PODS` with this address.
fn row_of_address(
    address: Addr,
    kernel: &mut dyn Kernel,
) -> Result<Option<LocalPod>, NotReconciled> {
    let rows = kernel.read_keys(LocalPods::SPEC, &address.0)?;
    Ok(rows.typed::<LocalPods>().next().map(|(_, row)| row))
}

/// Writes the rows of a pod that differ; the lease is locked. By index first, as ADD does. Returns whether
/// any differed.
fn put_rows(address: Addr, row: LocalPod, kernel: &mut dyn Kernel) -> Result<bool, NotReconciled> {
    let index = u32::from(row.index);
    let by_index = row_of_index(index, kernel)? != row;
    if by_index {
        put_row(index, row, kernel)?;
    }
    let by_address = row_of_address(address, kernel)? != Some(row);
    if by_address && let Some(write) = Write::put::<LocalPods>([(address, row)]) {
        kernel.write(&write)?;
    }
    Ok(by_index || by_address)
}

fn put_row(index: u32, row: LocalPod, kernel: &mut dyn Kernel) -> Result<(), NotReconciled> {
    if let Some(write) = Write::put::<Pods>([(index, row)]) {
        kernel.write(&write)?;
    }
    Ok(())
}

/// Deletes rows whose device does not exist. ADD writes the row before the lease's device is up, so a
/// row whose device exists may be in use.
fn delete_rows(
    leases: &[Lease],
    compared: &BTreeSet<Ipv4Addr>,
    observed: &[Observed<'_>],
    rows: &LocalPodRows,
    kernel: &mut dyn Kernel,
    repairs: &mut Repairs,
) -> Result<(), NotReconciled> {
    let others = leases.iter().filter(|lease| !compared.contains(&lease.address));
    let with_device = observed.iter().map(|pod| pod.lease);
    let wanted: BTreeSet<Addr> =
        others.chain(with_device).map(|lease| lease.address.into()).collect();
    let unwanted: Vec<_> = rows.iter().filter(|(address, _)| !wanted.contains(address)).collect();
    if unwanted.is_empty() {
        return Ok(());
    }
    let present: BTreeSet<u32> = kernel.links()?.iter().map(|link| link.index).collect();
    let stale = unwanted.iter().filter(|(_, row)| !present.contains(&row.ifindex));
    let mut stale: BTreeMap<Addr, LocalPod> =
        stale.map(|(address, row)| (**address, **row)).collect();
    if stale.is_empty() {
        return Ok(());
    }
    // An ADD may have written the row of the next pod with the address.
    let _locked = match repairs.lock(|| kernel.lock_leases()) {
        Ok(locked) => locked,
        Err(error) => {
            repairs.failures.push(format!("rows of removed pods: {error}"));
            return Ok(());
        }
    };
    let keys: Vec<u8> = stale.keys().flat_map(|address| address.0).collect();
    let rows: LocalPodRows =
        kernel.read_keys(LocalPods::SPEC, &keys)?.typed::<LocalPods>().collect();
    stale.retain(|address, row| rows.get(address) == Some(row));
    for row in stale.values() {
        repairs.add(POD_ROW);
        let index = u32::from(row.index);
        // Another pod may have the index by now.
        if row_of_index(index, kernel)? == *row {
            put_row(index, LocalPod::default(), kernel)?;
        }
    }
    if let Some(write) = Write::delete::<LocalPods>(stale.into_keys()) {
        kernel.write(&write)?;
    }
    Ok(())
}
