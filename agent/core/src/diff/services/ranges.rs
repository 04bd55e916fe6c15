//! Rows of `SOURCE_RANGES` in the kernel.
//!
//! Ranges that do not fit are absent, so that their clients are dropped: a frontend is limited whether or
//! not all its ranges are in the map, and whether or not the endpoints of its Service port fit.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use sluice_abi::{NetworkKey, SourceRangeKey, map};

use super::draft::Draft;
use super::{CapacityError, RealizedServices};
use crate::compile::{PortRow, network_key};

/// Rows by the id of their Service port.
#[derive(Clone, Debug, Default)]
pub(super) struct RealizedRanges {
    by_service: BTreeMap<u32, BTreeSet<SourceRangeKey>>,
    len: usize,
}

/// The key of a range.
fn key(service: u32, range: &IpNet) -> SourceRangeKey {
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

impl RealizedServices {
    /// Drafts the ranges of a Service port that is in the kernel. If the new ones do not fit, none of them is
    /// written, and every later plan tries again.
    pub(super) fn reconcile_ranges(&mut self, service: u32, row: &PortRow, draft: &mut Draft) {
        self.release_ranges(service, &row.source_ranges, draft);
        match self.new_ranges(service, row) {
            Ok(new) => {
                new.iter().for_each(|key| self.ranges.insert(*key));
                draft.put_ranges.extend(new);
            }
            Err(error) => {
                draft.over_capacity.push(error);
                self.waiting_ranges.insert(row.id.clone());
            }
        }
    }

    /// The ranges of a row that are not in the map.
    fn new_ranges(
        &self,
        service: u32,
        row: &PortRow,
    ) -> Result<Vec<SourceRangeKey>, CapacityError> {
        let keys = row.source_ranges.iter().map(|range| key(service, range));
        let new: Vec<_> = keys.filter(|key| !self.ranges.contains(key)).collect();
        let (ranges, max) = (row.source_ranges.len(), map::SOURCE_RANGES_PER_PORT);
        if !new.is_empty() && ranges > max as usize {
            return Err(CapacityError::RangesOfService { service: row.id.clone(), ranges, max });
        }
        // Rows that are deleted still count.
        let (needed, used, max) = (new.len(), self.ranges.len(), self.capacity.source_ranges);
        if needed > 0 && used + needed > max as usize {
            return Err(CapacityError::SourceRanges { service: row.id.clone(), needed, used, max });
        }
        Ok(new)
    }

    /// Drafts the deletion of the ranges of a Service port, without those to keep.
    pub(super) fn release_ranges(&self, service: u32, kept: &[IpNet], draft: &mut Draft) {
        let kept: BTreeSet<_> = kept.iter().map(|range| key(service, range)).collect();
        draft.delete_ranges.extend(self.ranges.of(service).filter(|key| !kept.contains(key)));
    }
}
