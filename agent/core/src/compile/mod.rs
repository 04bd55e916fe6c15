//! Objects in, table rows out: pure functions, one file a subject.

mod network;
mod service;

use std::fmt;

pub use network::{networks, routes};
pub use service::{ServiceView, service};
use sluice_abi::Backend;

use crate::model::{ObjectName, Protocol};

/// One port of a Service, which is what clients stay with and events name; or, without a port,
/// the rest of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortId {
    /// The Service.
    pub service: ObjectName,
    /// Name and protocol of the port; `None` in wildcard rows.
    pub port: Option<(String, Protocol)>,
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

/// What a frontend should lead to. Ids and slots are given when it is written ([`crate::diff`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendRow {
    /// Whose it is.
    pub service: ServicePortId,
    /// Backends to choose from, sorted, each once.
    pub backends: Vec<Backend>,
    /// UDP only: backends that serve but are not chosen here (hints, traffic policy); flows that
    /// they have stay with them. Sorted.
    pub idle: Vec<Backend>,
    /// Bits of [`sluice_abi::frontend_flags`].
    pub flags: u32,
    /// Seconds of session affinity, or 0.
    pub affinity_seconds: u32,
}
