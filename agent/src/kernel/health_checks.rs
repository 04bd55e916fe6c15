//! Servers of healthCheckNodePorts.

use std::collections::BTreeSet;
use std::fmt;

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

/// HTTP servers, one per port, on all addresses of the node.
pub trait HealthChecks: fmt::Debug {
    /// The ports that are open.
    fn health_check_ports(&mut self) -> BTreeSet<u16>;

    /// Opens a port if it is not open, and sets what its server responds.
    ///
    /// # Errors
    /// The port cannot be opened.
    fn serve_health_check(&mut self, port: u16, check: &HealthCheck) -> Result<()>;

    /// Closes a port.
    fn close_health_check(&mut self, port: u16);
}
