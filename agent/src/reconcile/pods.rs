//! Programs and `LOCAL_PODS` rows of the pods on this node.
//!
//! CNI ADD and DEL maintain both without the agent. This reconciler repairs what a crash, an
//! upgrade or another program left: missing or wrong rows, rows of removed pods, missing or old
//! programs on the host ends of the veth pairs.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::{Addr, LocalPod, map};
use sluice_bpf::error_chain;
use sluice_core::table::{Table, TableKind, TableSpec, Write};
use sluice_pod::inventory::HostLinks;
use sluice_pod::lease::Lease;

use super::{NotReconciled, Reconciler, all_or_failed};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// `LOCAL_PODS`: pod address -> device and MACs. Rows are owned by the CNI binary; the agent repairs
/// them.
#[derive(Clone, Copy, Debug)]
pub struct LocalPods;

impl Table for LocalPods {
    type Key = Addr;
    type Value = LocalPod;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<LocalPods>(map::LOCAL_PODS, TableKind::Hash, map::LOCAL_PODS_MAX);
}

/// Compares leases, devices and rows.
pub struct ReconcilePods;

#[derive(Debug, Default, PartialEq, Eq)]
struct Repairs {
    written: usize,
    deleted: usize,
    attached: usize,
    failures: Vec<String>,
}

impl Reconciler for ReconcilePods {
    fn concern(&self) -> Concern {
        Concern::Pods
    }

    fn reconcile(
        &mut self,
        _state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let mut leases = kernel.leases()?;
        let links = HostLinks::from_links(kernel.links()?);
        // ADD sets the device up as its last step; before that, the pod belongs to ADD alone.
        leases.retain(|lease| links.of(lease).is_some_and(|link| link.up));
        let wanted: BTreeMap<Addr, LocalPod> = links.local_pods(&leases).into_iter().collect();
        let rows: BTreeMap<Addr, LocalPod> =
            kernel.read(LocalPods::SPEC)?.typed::<LocalPods>().collect();
        let mut repairs = Repairs::default();
        attach_and_write(kernel, &leases, &wanted, &rows, &mut repairs)?;
        delete_rows(kernel, &wanted, &rows, &mut repairs)?;
        let Repairs { written, deleted, attached, failures } = repairs;
        if written + deleted + attached > 0 {
            tracing::info!(
                pods = wanted.len(),
                rows_written = written,
                rows_deleted = deleted,
                programs_attached = attached,
                "pods repaired"
            );
        }
        all_or_failed(&failures)
    }
}

/// Attaches the programs and writes the row of each pod. A pod without programs gets no row: it
/// must not be reachable unchecked.
fn attach_and_write(
    kernel: &mut dyn Kernel,
    leases: &[Lease],
    wanted: &BTreeMap<Addr, LocalPod>,
    rows: &BTreeMap<Addr, LocalPod>,
    repairs: &mut Repairs,
) -> Result<(), NotReconciled> {
    let mut failed = Vec::new();
    for (addr, pod) in wanted {
        match kernel.attach_pod(pod.ifindex) {
            Ok(changed) => repairs.attached += usize::from(changed),
            Err(e) => {
                failed.push((addr, pod.ifindex, error_chain(&e)));
                continue;
            }
        }
        if rows.get(addr) != Some(pod)
            && let Some(write) = Write::put::<LocalPods>([(*addr, *pod)])
        {
            kernel.write(&write)?;
            repairs.written += 1;
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    // A pod that was removed meanwhile did not fail.
    let present = devices(kernel)?;
    for (addr, _, error) in failed.into_iter().filter(|(_, index, _)| present.contains(index)) {
        let lease = leases.iter().find(|lease| Addr::from(lease.address) == *addr);
        let pod = lease.map(Lease::owner).unwrap_or_default();
        repairs.failures.push(format!("pod {pod}: {error}"));
    }
    Ok(())
}

/// Deletes the rows without a lease whose device is gone. ADD writes the row before the lease's
/// device is up, so a row whose device exists may be in use.
fn delete_rows(
    kernel: &mut dyn Kernel,
    wanted: &BTreeMap<Addr, LocalPod>,
    rows: &BTreeMap<Addr, LocalPod>,
    repairs: &mut Repairs,
) -> Result<(), NotReconciled> {
    let unwanted: Vec<_> = rows.iter().filter(|(addr, _)| !wanted.contains_key(addr)).collect();
    if unwanted.is_empty() {
        return Ok(());
    }
    let present = devices(kernel)?;
    let stale = unwanted.iter().filter(|(_, row)| !present.contains(&row.ifindex));
    let stale: Vec<Addr> = stale.map(|(addr, _)| **addr).collect();
    repairs.deleted = stale.len();
    if let Some(write) = Write::delete::<LocalPods>(stale) {
        kernel.write(&write)?;
    }
    Ok(())
}

fn devices(kernel: &mut dyn Kernel) -> Result<BTreeSet<u32>, NotReconciled> {
    Ok(kernel.links()?.iter().map(|link| link.index).collect())
}
