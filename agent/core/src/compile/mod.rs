//! Compilation of objects into table rows: pure functions, one file per subject.

mod network;
mod service;

use std::fmt;
use std::sync::Arc;

pub use network::{networks, routes};
pub use service::{ServiceView, service};
use sluice_abi::Backend;

use crate::model::{ObjectName, Protocol};

/// One port of a Service: the unit of session affinity, and what events refer to. Without a port:
/// the wildcard rows of the Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortId {
    /// The Service.
    pub service: ObjectName,
    /// Name and protocol of the port; `None` in wildcard rows.
    pub port: Option<(Arc<str>, Protocol)>,
}

impl fmt::Display for ServicePortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.port {
            None => write!(f, "{}:*", self.service),
            Some((name, protocol)) if name.is_empty() => write!(f, "{}:{protocol}", self.service),
            Some((name, protocol)) => write!(f, "{}:{name}/{protocol}", self.service),
        }
    }
}

/// Desired contents of a frontend. Ids and slots are assigned when it is written
/// ([`crate::diff`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendRow {
    /// The Service port that it belongs to.
    pub service: ServicePortId,
    /// Backends to choose from, sorted, each once.
    pub backends: Box<[Backend]>,
    /// UDP only: usable backends that hints or the traffic policy exclude on this node. Existing
    /// flows keep them. Sorted.
    pub unselected: Box<[Backend]>,
    /// Bits of [`sluice_abi::frontend_flags`].
    pub flags: u32,
    /// Timeout of session affinity in seconds, or 0.
    pub affinity_seconds: u32,
}
