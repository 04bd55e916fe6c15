//! `HOST_PORTS`: the hostPorts of the pods of this node.
//!
//! CNI ADD and DEL write the rows without the agent. This reconciler compares them with the leases, which
//! record them, and repairs what a crash or another program left.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::{Backend, FrontendKey, HostPortKey, node_port_addr};
use sluice_core::model::Kind;
use sluice_core::table::HostPorts;
use sluice_core::{ObjectName, dump};
use sluice_pod::HostPort;
use sluice_pod::lease::Lease;

use super::lease_rows::repair;
use super::{NotReconciled, Reconciler};
use crate::conditions::Concern;
use crate::findings::{Finding, Reason};
use crate::kernel::Kernel;
use crate::state::{State, conflict};

type HostPortRows = BTreeMap<HostPortKey, Backend>;

/// Compares leases and rows, and reports hostPorts that NodePorts hide.
#[derive(Debug, Default)]
pub struct ReconcileHostPorts {
    /// Those that have been reported.
    hidden: BTreeSet<Hidden>,
}

/// A hostPort of a pod, and the Service with the NodePort that hides it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hidden {
    pod: ObjectName,
    port: FrontendKey,
    service: ObjectName,
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
        let count = repair::<HostPorts>(kernel, wanted)?;
        if count > 0 {
            tracing::info!(rows = count, "hostPorts repaired");
            state.repaired("host_port", count);
            state.compare_sockets();
        }
        self.report_hidden(state, &kernel.leases()?);
        Ok(())
    }
}

impl ReconcileHostPorts {
    /// Reports each hostPort that a NodePort hides, once.
    fn report_hidden(&mut self, state: &mut State, leases: &[Lease]) {
        let hidden: BTreeSet<Hidden> = leases.iter().flat_map(|l| hidden(state, l)).collect();
        for Hidden { pod, port, service } in hidden.difference(&self.hidden) {
            let frontend = conflict::frontend(port);
            let (number, protocol) = (port.port.get(), dump::protocol(port.proto));
            let message = format!(
                "hostPort {number}/{protocol} is not served: {frontend} of Service {service} precedes it"
            );
            let reason = Reason::HostPortHidden;
            state.report(Finding::without_uid(Kind::Pod, pod.clone(), reason, message));
        }
        self.hidden = hidden;
    }
}

/// The hostPorts of a pod that NodePorts hide. A NodePort hides them on every address.
fn hidden(state: &State, lease: &Lease) -> Vec<Hidden> {
    let (Some(namespace), Some(name)) = (&lease.pod_namespace, &lease.pod_name) else {
        return Vec::new();
    };
    let pod = ObjectName::new(namespace.as_str(), name.as_str());
    let hidden = |port: &HostPort| {
        let key = port.key();
        let port = FrontendKey { addr: node_port_addr(key.addr.family()), ..key };
        let service = state.tables().frontend(&port)?.service.clone();
        Some(Hidden { pod: pod.clone(), port, service })
    };
    lease.host_ports.iter().flatten().filter_map(hidden).collect()
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
