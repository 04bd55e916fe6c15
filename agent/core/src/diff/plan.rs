//! The result of planning: batches of writes, and what follows from them.

use sluice_abi::{Backend, FrontendKey, NetworkKey, proto};
use zerocopy::FromBytes;

use super::Capacity;
use crate::compile::ServicePortId;
use crate::model::ObjectName;
use crate::table::{
    Backends, Frontends, Networks, Services, Slots, SourceRanges, Table, TableSpec, Write,
};

/// Writes, and what else follows from the changes.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Batches, to be written in this order.
    pub writes: Vec<Write>,
    /// UDP backends that left their Service port, sorted.
    pub stale_udp: Vec<StaleBackend>,
    /// Rows that do not fit. Existing frontends stay unchanged; every later plan tries again.
    pub over_capacity: Vec<CapacityError>,
    /// The entries that the maps would need for all rows, if some do not fit.
    pub needed: Option<Capacity>,
    /// Whether slots were in quarantine during this plan: a later plan may use them.
    pub(super) space_pending: bool,
}

/// A backend that left its Service port. Other Service ports may still have the same endpoint, with
/// other ids.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StaleBackend {
    /// Address, port and protocol.
    pub backend: Backend,
    /// Its former id.
    pub id: u32,
}

impl Plan {
    /// Whether a further plan may succeed where this one exceeds a capacity, even without changes.
    pub fn worth_retrying(&self) -> bool {
        let frees = || self.writes.iter().any(Write::is_delete);
        !self.over_capacity.is_empty() && (self.space_pending || frees())
    }

    /// Whether sockets that are connected to UDP backends may have to leave them after the writes: backends left
    /// their Service port, or frontends end or change.
    pub fn affects_udp_sockets(&self) -> bool {
        let is_udp =
            |key: &[u8]| FrontendKey::read_from_bytes(key).is_ok_and(|key| key.proto == proto::UDP);
        let mut frontends = self.writes.iter().filter(|write| write.table() == Frontends::SPEC);
        !self.stale_udp.is_empty()
            || frontends.any(|write| write.rows().any(|(key, _)| is_udp(key)))
    }

    /// Number of rows in all batches.
    pub fn rows(&self) -> usize {
        self.writes.iter().map(Write::len).sum()
    }
}

/// A row exceeds the capacity of a map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapacityError {
    /// `FRONTENDS` is full.
    #[error(
        "Service {service} is not programmed as desired: {} does not fit, all {max} frontends are \
         in use",
        crate::dump::key(key)
    )]
    Frontends {
        /// The Service of the frontend.
        service: ObjectName,
        /// The frontend.
        key: FrontendKey,
        /// Capacity of the map.
        max: u32,
    },
    /// `SERVICES` is full.
    #[error("Service {service} is not programmed as desired: all {max} Service ports are in use")]
    Services {
        /// The Service port.
        service: ServicePortId,
        /// Capacity of the map.
        max: u32,
    },
    /// `BACKENDS` is full.
    #[error(
        "Service {service} is not programmed as desired: it needs {needed} more backends, and \
         {used} of {max} are in use"
    )]
    Backends {
        /// The Service port of the backends.
        service: ServicePortId,
        /// Backends that are not in the map yet.
        needed: usize,
        /// Backends in the map.
        used: usize,
        /// Capacity of the map.
        max: u32,
    },
    /// No range of free slots is long enough.
    #[error(
        "Service {service} is not programmed as desired: it needs {needed} adjacent slots, and \
         {free} of {max} are free in shorter ranges"
    )]
    Slots {
        /// The Service port of the slots.
        service: ServicePortId,
        /// Length of the range.
        needed: u32,
        /// Free slots.
        free: u64,
        /// Capacity of the map.
        max: u32,
    },
    /// `SOURCE_RANGES` is full.
    #[error(
        "addresses of the load balancer of Service {service} drop clients in new source ranges: \
         {needed} more ranges are needed, and {used} of {max} are in use"
    )]
    SourceRanges {
        /// The Service port of the ranges.
        service: ServicePortId,
        /// Ranges that are not in the map yet.
        needed: usize,
        /// Ranges in the map.
        used: usize,
        /// Capacity of the map.
        max: u32,
    },
    /// A Service has more source ranges than it may have.
    #[error(
        "addresses of the load balancer of Service {service} drop clients in new source ranges: it \
         has {ranges} ranges of one family, and at most {max} are programmed"
    )]
    RangesOfService {
        /// The Service port of the ranges.
        service: ServicePortId,
        /// Its ranges.
        ranges: usize,
        /// The limit.
        max: u32,
    },
    /// `NETWORKS` is full.
    #[error(
        "network {} is not programmed: all {max} networks are in use",
        crate::dump::network(key)
    )]
    Networks {
        /// The address range.
        key: NetworkKey,
        /// Capacity of the map.
        max: u32,
    },
}

impl CapacityError {
    /// The Service that is not programmed as desired.
    pub fn service(&self) -> Option<&ObjectName> {
        match self {
            CapacityError::Frontends { service, .. } => Some(service),
            CapacityError::Services { service, .. }
            | CapacityError::Backends { service, .. }
            | CapacityError::Slots { service, .. }
            | CapacityError::SourceRanges { service, .. }
            | CapacityError::RangesOfService { service, .. } => Some(&service.service),
            CapacityError::Networks { .. } => None,
        }
    }

    /// The map that refused the row.
    pub fn table(&self) -> &'static TableSpec {
        match self {
            CapacityError::Frontends { .. } => Frontends::SPEC,
            CapacityError::Services { .. } => Services::SPEC,
            CapacityError::Backends { .. } => Backends::SPEC,
            CapacityError::Slots { .. } => Slots::SPEC,
            CapacityError::SourceRanges { .. } | CapacityError::RangesOfService { .. } => {
                SourceRanges::SPEC
            }
            CapacityError::Networks { .. } => Networks::SPEC,
        }
    }
}
