//! Servers of healthCheckNodePorts.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::FakeKernel;
use crate::kernel::{HealthCheck, HealthChecks, Result};

/// A listener at every address.
const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

impl HealthChecks for FakeKernel {
    fn health_check_ports(&mut self) -> BTreeSet<u16> {
        self.health_checks.keys().copied().collect()
    }

    fn serve_health_check(
        &mut self,
        port: u16,
        check: &HealthCheck,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<()> {
        let served = (check.clone(), addresses.clone());
        if self.health_checks.get(&port) != Some(&served) {
            let HealthCheck { service, local_endpoints } = check;
            let at = match addresses.iter().eq(&ANY) {
                true => String::new(),
                false => format!(" at {addresses:?}"),
            };
            self.change(format!("serve health check {port} {service} {local_endpoints}{at}"))?;
            self.health_checks.insert(port, served);
        }
        Ok(())
    }

    fn close_health_check(&mut self, port: u16) {
        if self.health_checks.remove(&port).is_some() {
            self.log.push(format!("close health check {port}"));
        }
    }
}
