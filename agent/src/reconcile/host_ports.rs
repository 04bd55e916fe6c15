//! `HOST_PORTS`: the hostPorts of the pods of this node.
//!
//! CNI ADD and DEL write the rows without the agent. This reconciler compares them with the leases, which
//! record them, and repairs what a crash or another program left.

use std::collections::BTreeMap;

use sluice_abi::{Backend, HostPortKey};
use sluice_core::table::HostPorts;
use sluice_pod::lease::Lease;

use super::lease_rows::repair;
use super::{NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::Kernel;
use crate::state::State;

type HostPortRows = BTreeMap<HostPortKey, Backend>;

/// Compares leases and rows.
#[derive(Debug)]
pub struct ReconcileHostPorts;

impl Reconciler for ReconcileHostPorts {
    fn concern(&self) -> Concern {
        Concern::HostPorts
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let count = repair::<HostPorts>(kernel, wanted)?;
        if count > 0 {
            tracing::info!(rows = count, "hostPorts repaired");
            state.repaired("host_port", count);
            state.compare_sockets();
        }
        Ok(())
    }
}

/// The rows of these leases. Of two pods with one port, the newer one has it. Leases that do not record
/// the hostPorts of their pods keep the rows that lead to these.
fn wanted(leases: &[Lease], rows: &HostPortRows) -> HostPortRows {
    let mut by_age: Vec<&Lease> = leases.iter().collect();
    by_age.sort_by_key(|lease| (lease.since.seconds, lease.address));
    let mut wanted = HostPortRows::new();
    for lease in by_age {
        match &lease.host_ports {
            Some(ports) => {
                wanted.extend(ports.iter().map(|port| (port.key(), port.backend(lease.address))));
            }
            None => {
                let of_pod = rows.iter().filter(|(_, pod)| pod.addr == lease.address.into());
                wanted.extend(of_pod.map(|(key, pod)| (*key, *pod)));
            }
        }
    }
    wanted
}
