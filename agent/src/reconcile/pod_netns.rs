//! `POD_NETNS`: the pods of this node by the cookie of their network namespace.
//!
//! CNI ADD and DEL write the rows without the agent. This reconciler compares them with the leases, which
//! record the cookies, and repairs what a crash or another program left. A pod without a row has the
//! address of the node for session affinity at its sockets.

use std::collections::BTreeMap;

use sluice_abi::{Addr, PodNetns};
use sluice_core::table::PodNetnsRows;
use sluice_pod::lease::Lease;

use super::lease_rows::repair;
use super::{NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

type Rows = BTreeMap<u64, PodNetns>;

/// Compares leases and rows.
pub struct ReconcilePodNetns;

impl Reconciler for ReconcilePodNetns {
    fn concern(&self) -> Concern {
        Concern::PodNetns
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let count = repair::<PodNetnsRows>(kernel, wanted)?;
        if count == 0 {
            return Ok(());
        }
        tracing::info!(rows = count, "network namespaces of pods repaired");
        state.repaired("pod_netns", count);
        Ok(())
    }
}

/// The rows of these leases. Leases that do not record the cookie keep the rows that lead to their pods.
fn wanted(leases: &[Lease], rows: &Rows) -> Rows {
    let mut wanted = Rows::new();
    for lease in leases {
        let address = Addr::from(lease.address);
        match lease.netns_cookie {
            Some(cookie) => {
                wanted.insert(cookie, PodNetns { addrs: [address, Addr::UNSPECIFIED] });
            }
            None => {
                let of_pod = rows.iter().filter(|(_, pod)| pod.addrs.contains(&address));
                wanted.extend(of_pod.map(|(cookie, pod)| (*cookie, *pod)));
            }
        }
    }
    wanted
}
