//! Leases of sandboxes that ended without CNI DEL: a reboot, a crash in the middle of ADD; and whether
//! an address is left.
//!
//! The veth pair ends with the sandbox's network namespace, so a lease with neither is left over. A pod may
//! have lost its device alone. The lease of an ADD that still runs has no device yet and counts as live by its
//! age ([`HostLinks::is_live`]). What is left over is judged again under the lock of the leases.
//!
//! A damaged lease that can be neither rebuilt nor ended is tried again here, and nowhere else: every other
//! reader of the leases goes on with those that can be read.

use std::net::Ipv4Addr;

use sluice_bpf::error_chain;
use sluice_pod::Reclaimed;
use sluice_pod::inventory::HostLinks;
use sluice_pod::lease::{Lease, Subnet};

use super::{NotReconciled, Reconciler, all_or_failed};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

/// Releases leases that are left over.
pub struct ReconcileLeases;

impl Reconciler for ReconcileLeases {
    fn concern(&self) -> Concern {
        Concern::Leases
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let mut failures: Vec<String> =
            kernel.mend_leases()?.iter().map(|lease| error_chain(lease)).collect();
        // The clock first: the ADD of a lease that is old by then has its device when the devices are
        // listed, however long the agent is stopped in between.
        let now = kernel.boot_instant()?;
        let leases = kernel.leases()?;
        let links = HostLinks::from_links(kernel.links()?);
        let (live, left_over): (Vec<_>, Vec<_>) = leases
            .into_iter()
            .partition(|lease| links.is_live(lease, &now, |lease| kernel.netns_may_exist(lease)));
        if !left_over.is_empty() {
            failures.extend(release(&left_over, kernel)?);
        }
        all_or_failed(&failures)?;
        // ADD in a full range sees all namespaces, and releases what only the agent has to keep.
        let certain = live
            .iter()
            .filter(|lease| links.is_live(lease, &now, |lease| kernel.netns_exists(lease)))
            .map(|lease| lease.address);
        has_addresses(state, certain)
    }
}

/// Returns why leases stay.
fn release(left_over: &[Lease], kernel: &mut dyn Kernel) -> Result<Vec<String>, NotReconciled> {
    let Reclaimed { released, kept } = kernel.release_leases(left_over)?;
    for lease in released {
        tracing::info!(
            pod = %lease.owner(),
            address = %lease.address,
            "lease of a removed sandbox released"
        );
    }
    Ok(kept.iter().map(|lease| error_chain(lease)).collect())
}

/// STATUS of the CNI binary does not report a full range: the node would become not Ready. `live` are the
/// addresses that an ADD cannot get.
fn has_addresses(state: &State, live: impl Iterator<Item = Ipv4Addr>) -> Result<(), NotReconciled> {
    let of_node = state.pod_cidrs().into_iter().find(|net| net.addr().is_ipv4());
    let subnet: Option<Subnet> = of_node.and_then(|net| net.to_string().parse().ok());
    let Some(subnet) = subnet else { return Ok(()) };
    let leased = live.filter(|address| subnet.contains(*address)).count();
    if leased < subnet.capacity() {
        return Ok(());
    }
    Err(NotReconciled::Degraded(format!(
        "all {leased} pod addresses of {subnet} are in use; new pods cannot start: delete pods or give \
         the node a larger range"
    )))
}
