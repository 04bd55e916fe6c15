//! Rows that lead to the pods of leases, in maps that CNI ADD and DEL write too.
//!
//! ```text
//! rows, leases --> equal                        nothing to do, no lock
//!              --> different --> the same again, without ADDs that run --> equal, no lock
//!                    --> different --> lock of the leases --> once more --> difference written
//! ```
//! An ADD or a DEL that runs between the two reads, or before the write, causes an apparent difference:
//! the row of a pod that has ended, or of the next one with its port. ADD and DEL write under the same lock,
//! for which the agent should not wait while many pods start.

use std::collections::BTreeMap;

use sluice_core::table::{LocalPods, Table};
use sluice_pod::lease::{BootInstant, Lease};

use super::{NotReconciled, repair_rows};
use crate::kernel::Kernel;

/// Age of a lease from which missing parts of the pod's network are repaired: its ADD does not run any more.
const ADD_SECONDS: u64 = 10;

/// Rows by key.
pub type RowsOf<T> = BTreeMap<<T as Table>::Key, <T as Table>::Value>;

/// Whether the ADD of a lease may still run.
pub fn add_may_run(lease: &Lease, now: &BootInstant) -> bool {
    lease.since.age(now).is_some_and(|age| age < ADD_SECONDS)
}

/// Repairs the rows of a map; returns the number of rows that were written or deleted. `wanted` are the rows of
/// these leases; those that do not record what the rows are made of keep what they have.
///
/// # Errors
/// Rows or leases cannot be read, locked or written.
pub fn repair<T: Table>(
    kernel: &mut dyn Kernel,
    wanted: impl Fn(&[Lease], &RowsOf<T>) -> RowsOf<T>,
) -> Result<usize, NotReconciled> {
    let (found, leases) = unlocked::<T>(kernel)?;
    if wanted(&leases, &found) == found {
        return Ok(0);
    }
    // Before the rows that ADD writes after them.
    let local_pods = read::<LocalPods>(kernel)?;
    let (found, leases) = unlocked::<T>(kernel)?;
    if wanted(&without_running_adds(&leases, &local_pods, kernel)?, &found) == found {
        return Ok(0);
    }
    let locked = kernel.lock_leases()?;
    let local_pods = read::<LocalPods>(kernel)?;
    let found = read::<T>(kernel)?;
    let rows = wanted(&without_running_adds(&locked.leases, &local_pods, kernel)?, &found);
    repair_rows::<T>(&found, &rows, kernel)
}

/// Rows and leases. Rows first: ADD writes its lease before its rows, so that the row of a running ADD has a
/// lease.
fn unlocked<T: Table>(kernel: &mut dyn Kernel) -> Result<(RowsOf<T>, Vec<Lease>), NotReconciled> {
    let found = read::<T>(kernel)?;
    Ok((found, kernel.leases()?))
}

fn read<T: Table>(kernel: &mut dyn Kernel) -> Result<RowsOf<T>, NotReconciled> {
    Ok(kernel.read(T::SPEC)?.typed::<T>().collect())
}

/// The leases, without the records of those whose ADD has not written its rows: it writes all of them under
/// the lock, that of `LOCAL_PODS` first.
fn without_running_adds(
    leases: &[Lease],
    local_pods: &RowsOf<LocalPods>,
    kernel: &mut dyn Kernel,
) -> Result<Vec<Lease>, NotReconciled> {
    let now = kernel.boot_instant()?;
    let mut leases = leases.to_vec();
    for lease in leases.iter_mut().filter(|lease| add_may_run(lease, &now)) {
        let row = local_pods.get(&lease.address.into());
        if row.is_none_or(|row| row.generation != lease.row_generation()) {
            (lease.host_ports, lease.netns_cookie) = (None, None);
        }
    }
    Ok(leases)
}
