//! `HOST_PORTS`: the hostPorts of the pods of this node.
//!
//! CNI ADD and DEL write the rows without the agent. This reconciler compares them with the leases, which
//! record them, and repairs what a crash or another program left.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::{Backend, HostPortKey, proto};
use sluice_core::table::HostPorts;
use sluice_pod::lease::Lease;

use super::lease_rows::{Repaired, repair};
use super::{NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::kernel::{Kernel, Peer};
use crate::state::State;

type HostPortRows = BTreeMap<HostPortKey, Backend>;

/// Compares leases and rows, and closes the UDP sockets that are connected to a former hostPort: the
/// socket programs have translated them once, and another pod can get the address.
#[derive(Debug, Default)]
pub struct ReconcileHostPorts {
    /// Pods and ports of UDP that hostPorts lead to.
    udp: BTreeSet<Peer>,
    /// Those that none leads to any more, and whose sockets have not been closed.
    stale: BTreeSet<Peer>,
}

impl Reconciler for ReconcileHostPorts {
    fn concern(&self) -> Concern {
        Concern::HostPorts
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let Repaired { found, wanted, leases, count } = repair::<HostPorts>(kernel, wanted)?;
        self.note_stale(&found, &wanted);
        if count > 0 {
            tracing::info!(rows = count, "hostPorts repaired");
            state.repaired("host_port", count);
        }
        if !self.stale.is_empty() {
            kernel.destroy_udp_sockets(&self.stale, &leases)?;
            self.stale.clear();
        }
        Ok(())
    }
}

impl ReconcileHostPorts {
    /// Notes what hostPorts led to, by the rows or at the last call, and do not lead to any more.
    fn note_stale(&mut self, rows: &HostPortRows, wanted: &HostPortRows) {
        let udp = |rows: &HostPortRows| -> BTreeSet<Peer> {
            let rows = rows.iter().filter(|(key, _)| key.proto == proto::UDP);
            rows.map(|(_, pod)| (pod.addr, pod.port)).collect()
        };
        self.stale.append(&mut std::mem::replace(&mut self.udp, udp(wanted)));
        self.stale.append(&mut udp(rows));
        self.stale.retain(|peer| !self.udp.contains(peer));
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
