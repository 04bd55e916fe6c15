//! Servers of the healthCheckNodePorts: one for each Service with a load balancer and traffic policy
//! Local, at the addresses that `--nodeport-addresses` selects. A port that is in use is retried.

use std::collections::BTreeMap;

use sluice_bpf::error_chain;
use sluice_core::ObjectName;

use super::{NotReconciled, Reconciler, all_or_failed};
use crate::conditions::Concern;
use crate::findings::{Finding, Reason};
use crate::kernel::{HealthCheck, Kernel};
use crate::state::{HealthCheckPort, State};

/// Opens and closes ports, and sets what their servers respond.
#[derive(Debug)]
pub struct ReconcileHealthCheckPorts;

impl Reconciler for ReconcileHealthCheckPorts {
    fn concern(&self) -> Concern {
        Concern::HealthCheckPorts
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        let mut services: Vec<(&ObjectName, &HealthCheckPort)> =
            state.health_checks().iter().collect();
        services.sort_by_key(|(name, check)| (check.created, *name));
        let mut failures = Vec::new();
        let mut desired: BTreeMap<u16, HealthCheck> = BTreeMap::new();
        for (service, check) in services {
            if let Some(owner) = desired.get(&check.port) {
                let HealthCheckPort { port, .. } = check;
                let owner = &owner.service;
                let line = format!(
                    "healthCheckNodePort {port} of Service {service} is that of Service {owner}"
                );
                failures.push((service.clone(), line));
                continue;
            }
            let local_endpoints = check.local_endpoints;
            let served = HealthCheck { service: service.clone(), local_endpoints };
            desired.insert(check.port, served);
        }
        for port in kernel.health_check_ports() {
            if !desired.contains_key(&port) {
                kernel.close_health_check(port);
            }
        }
        let addresses = state.health_check_addresses();
        for (port, check) in &desired {
            if let Err(e) = kernel.serve_health_check(*port, check, &addresses) {
                let service = &check.service;
                let error = error_chain(&e);
                let line = format!("healthCheckNodePort {port} of Service {service}: {error}");
                failures.push((service.clone(), line));
            }
        }
        for (service, line) in &failures {
            let message = format!("node {}: {line}", state.config().node_name);
            let reason = Reason::FailedToStartServiceHealthcheck;
            state.report(Finding::service(service, reason, message));
        }
        let lines: Vec<String> = failures.into_iter().map(|(_, line)| line).collect();
        all_or_failed(&lines)
    }
}
