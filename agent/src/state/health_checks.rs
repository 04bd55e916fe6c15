//! Services whose load balancer asks this node for its endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sluice_abi::network_kind;
use sluice_core::ObjectName;

use super::State;
use crate::conditions::Concern;

/// A Service with a healthCheckNodePort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheckPort {
    /// The port.
    pub port: u16,
    /// `creationTimestamp` of the Service: the oldest Service has a port.
    pub created: i64,
    /// Number of its ready endpoints on this node.
    pub local_endpoints: usize,
}

impl State {
    /// Compares Services that may have changed.
    pub(super) fn update_health_checks(&mut self, services: &BTreeSet<ObjectName>) {
        let mut changed = false;
        for name in services {
            let service =
                self.index.service(name).filter(|s| !s.hidden && !s.cluster_ips.is_empty());
            let check = service.and_then(|s| Some((s.created, s.health_check_node_port()?.get())));
            changed |= match check {
                None => self.health_checks.remove(name).is_some(),
                Some((created, port)) => {
                    let local_endpoints = self.index.local_ready_endpoints(name);
                    let check = HealthCheckPort { port, created, local_endpoints };
                    self.health_checks.insert(name.clone(), check.clone()) != Some(check)
                }
            };
        }
        if changed {
            self.mark([Concern::HealthCheckPorts]);
        }
    }

    /// The Services with a healthCheckNodePort.
    pub fn health_checks(&self) -> &BTreeMap<ObjectName, HealthCheckPort> {
        &self.health_checks
    }

    /// Where their servers listen.
    pub fn health_check_addresses(&self) -> BTreeSet<IpAddr> {
        let networks = self.tables.networks().iter();
        let serving = networks.filter(|(_, network)| network.kind == network_kind::THIS_NODE);
        self.context.node_ports.listen_at(serving.map(|(key, _)| key.addr.into()))
    }
}
