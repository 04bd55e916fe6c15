//! Servers of healthCheckNodePorts.

use std::collections::BTreeSet;

use super::FakeKernel;
use crate::kernel::{HealthCheck, HealthChecks, Result};

impl HealthChecks for FakeKernel {
    fn health_check_ports(&mut self) -> BTreeSet<u16> {
        self.health_checks.keys().copied().collect()
    }

    fn serve_health_check(&mut self, port: u16, check: &HealthCheck) -> Result<()> {
        if self.health_checks.get(&port) != Some(check) {
            let HealthCheck { service, local_endpoints } = check;
            self.change(format!("serve health check {port} {service} {local_endpoints}"))?;
            self.health_checks.insert(port, check.clone());
        }
        Ok(())
    }

    fn close_health_check(&mut self, port: u16) {
        if self.health_checks.remove(&port).is_some() {
            self.log.push(format!("close health check {port}"));
        }
    }
}
