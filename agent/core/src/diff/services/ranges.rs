//! Rows of `SOURCE_RANGES` in the kernel.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use sluice_abi::{NetworkKey, SourceRangeKey};

use crate::compile::network_key;

/// Rows by the id of their Service port.
#[derive(Clone, Debug, Default)]
pub(super) struct RealizedRanges {
    by_service: BTreeMap<u32, BTreeSet<SourceRangeKey>>,
    len: usize,
}

/// The key of a range.
pub(super) fn key(service: u32, range: &IpNet) -> SourceRangeKey {
    let NetworkKey { prefix_len, addr } = network_key(*range);
    SourceRangeKey { prefix_len: 32 + prefix_len, service, addr }
}

impl RealizedRanges {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is this row.
    pub fn contains(&self, key: &SourceRangeKey) -> bool {
        self.by_service.get(&key.service).is_some_and(|ranges| ranges.contains(key))
    }

    /// The ranges of a Service port.
    pub fn of(&self, service: u32) -> impl Iterator<Item = SourceRangeKey> {
        self.by_service.get(&service).into_iter().flatten().copied()
    }

    /// The Service ports that have ranges.
    pub fn services(&self) -> impl Iterator<Item = u32> {
        self.by_service.keys().copied()
    }

    /// Adds a row.
    pub fn insert(&mut self, key: SourceRangeKey) {
        self.len += usize::from(self.by_service.entry(key.service).or_default().insert(key));
    }

    /// Removes a row.
    pub fn remove(&mut self, key: &SourceRangeKey) {
        if let Some(ranges) = self.by_service.get_mut(&key.service) {
            self.len -= usize::from(ranges.remove(key));
            if ranges.is_empty() {
                self.by_service.remove(&key.service);
            }
        }
    }
}
