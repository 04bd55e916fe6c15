//! Servers of healthCheckNodePorts.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use sluice_core::ObjectName;

use super::Result;

/// The response to a health check of a load balancer, for one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service.
    pub service: ObjectName,
    /// Number of its ready endpoints on this node.
    pub local_endpoints: usize,
}

/// HTTP servers, one per port, at addresses of the node.
pub trait HealthChecks: fmt::Debug {
    /// The ports that are open.
    fn health_check_ports(&mut self) -> BTreeSet<u16>;

    /// Opens a port at those of these addresses where it is not open, closes it at all others, and sets
    /// what its server responds. An unspecified address is every address of its family.
    ///
    /// # Errors
    /// The port cannot be opened at an address; it is served at the others.
    fn serve_health_check(
        &mut self,
        port: u16,
        check: &HealthCheck,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<()>;

    /// Closes a port.
    fn close_health_check(&mut self, port: u16);
}
