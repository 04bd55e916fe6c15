//! Times of the causes of changes, for the metric of their duration until they are programmed.

use sluice_core::Change;
use sluice_core::model::{AddressType, Object};

use super::State;
use crate::conditions::Concern;

/// Causes that are kept until they are programmed.
pub(super) const CAUSES: usize = 4096;

/// The cause of a change of an EndpointSlice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    /// When it happened, in milliseconds since 1970.
    pub at: i64,
    /// Whether the endpoints have IPv6 addresses.
    pub v6: bool,
}

/// The cause of a change.
pub(super) fn cause(change: &Change) -> Option<Cause> {
    let Change::Apply(Object::EndpointSlice(slice)) = change else { return None };
    Some(Cause { at: slice.trigger?, v6: slice.address_type == AddressType::Ipv6 })
}

impl State {
    /// The causes of the changes since the last call, once they are in the maps that attached programs read.
    pub fn take_programmed(&mut self) -> Vec<Cause> {
        if self.tables_written
            && self.may_attach()
            && self.conditions.get(Concern::ServiceMaps).is_none()
        {
            std::mem::take(&mut self.causes)
        } else {
            Vec::new()
        }
    }
}
