//! The rows of the maps at start or after a failed write.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::{
    BackendRow, Frontend, FrontendKey, Network, NetworkKey, ServicePort, SlotRange, SourceRangeKey,
};
use zerocopy::IntoBytes;

use crate::slots::end;
use crate::table::{
    Backends, Frontends, Networks, Rows, Services, Slots, SourceRanges, Table, TableSpec,
};

/// Contents of the maps. `SLOTS` is large and mostly unused: only the ranges that Service ports
/// refer to are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadBack {
    /// `FRONTENDS`.
    pub frontends: Vec<(FrontendKey, Frontend)>,
    /// `SERVICES`.
    pub services: Vec<(u32, ServicePort)>,
    /// Keys of `SOURCE_RANGES`.
    pub source_ranges: Vec<SourceRangeKey>,
    /// `BACKENDS`.
    pub backends: Vec<(u32, BackendRow)>,
    /// `NETWORKS`.
    pub networks: Vec<(NetworkKey, Network)>,
    /// Ranges of `SLOTS`. A range of which a slot was not read is absent.
    pub slots: BTreeMap<SlotRange, Vec<u32>>,
}

impl ReadBack {
    /// Reads the maps. `read` returns the rows of a map: all of them, or those of the given keys
    /// (packed, ascending).
    ///
    /// # Errors
    /// The first error of `read`.
    pub fn read<E>(
        mut read: impl FnMut(&'static TableSpec, Option<&[u8]>) -> Result<Rows, E>,
    ) -> Result<ReadBack, E> {
        let mut read_back = ReadBack::from_rows(
            &read(Frontends::SPEC, None)?,
            &read(Services::SPEC, None)?,
            &read(SourceRanges::SPEC, None)?,
            &read(Backends::SPEC, None)?,
            &read(Networks::SPEC, None)?,
        );
        let slots = read_back.slot_keys(Slots::SPEC.capacity);
        read_back.add_slots(&read(Slots::SPEC, Some(slots.as_bytes()))?);
        Ok(read_back)
    }

    /// The contents of five maps, without slots.
    pub fn from_rows(
        frontends: &Rows,
        services: &Rows,
        source_ranges: &Rows,
        backends: &Rows,
        networks: &Rows,
    ) -> ReadBack {
        ReadBack {
            frontends: frontends.typed::<Frontends>().collect(),
            services: services.typed::<Services>().collect(),
            source_ranges: source_ranges.typed::<SourceRanges>().map(|(key, _)| key).collect(),
            backends: backends.typed::<Backends>().collect(),
            networks: networks.typed::<Networks>().collect(),
            slots: BTreeMap::new(),
        }
    }

    /// The slots that Service ports refer to, ascending, as far as they lie in an array of `capacity`
    /// slots.
    pub fn slot_keys(&self, capacity: u32) -> Vec<u32> {
        let mut keys = Vec::new();
        let mut next = 0;
        // Ranges may overlap if the maps were damaged.
        for range in self.ranges() {
            if end(range) <= u64::from(capacity) {
                let last = range.offset + range.len;
                keys.extend(range.offset.max(next)..last);
                next = next.max(last);
            }
        }
        keys
    }

    /// Adds the rows of [`ReadBack::slot_keys`], in ascending order.
    pub fn add_slots(&mut self, rows: &Rows) {
        let slots: Vec<(u32, u32)> = rows.typed::<Slots>().collect();
        for range in self.ranges() {
            let start = slots.partition_point(|(slot, _)| *slot < range.offset);
            let ids: Vec<u32> = slots[start..]
                .iter()
                .take_while(|(slot, _)| u64::from(*slot) < end(range))
                .map(|(_, id)| *id)
                .collect();
            if ids.len() == range.len as usize {
                self.slots.insert(range, ids);
            }
        }
    }

    /// The ranges that Service ports refer to, ascending.
    fn ranges(&self) -> BTreeSet<SlotRange> {
        let ranges = self.services.iter().flat_map(|(_, port)| [port.cluster, port.local]);
        ranges.filter(|range| range.len > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn port(id: u32, offset: u32, len: u32) -> (u32, ServicePort) {
        (id, ServicePort { cluster: SlotRange { offset, len }, ..ServicePort::default() })
    }

    fn read_back(services: &[(u32, ServicePort)]) -> ReadBack {
        ReadBack { services: services.to_vec(), ..ReadBack::default() }
    }

    #[test]
    fn slots_of_overlapping_ranges_are_read_once() {
        let read_back = read_back(&[port(1, 4, 4), port(2, 5, 2), port(3, 6, 3)]);
        assert_eq!(read_back.slot_keys(100), [4, 5, 6, 7, 8]);
    }

    #[test]
    fn ranges_beyond_the_array_are_not_read() {
        let read_back =
            read_back(&[port(1, 8, 2), port(2, 9, 2), port(3, 0, 0), port(4, u32::MAX, u32::MAX)]);
        assert_eq!(read_back.slot_keys(10), [8, 9]);
    }

    #[test]
    fn incompletely_read_range_is_absent() {
        let mut read_back = read_back(&[port(1, 1, 2), port(2, 3, 2)]);
        read_back.add_slots(&Rows::of::<Slots>([(1, 10), (2, 20), (3, 30)]));
        let range = SlotRange { offset: 1, len: 2 };
        assert_eq!(read_back.slots, BTreeMap::from([(range, vec![10, 20])]));
    }

    #[test]
    fn only_referenced_slots_are_requested() {
        let frontends = [(FrontendKey::default(), Frontend::default())];
        let local = SlotRange { offset: 9, len: 1 };
        let services = [(1, ServicePort { local, ..port(1, 7, 2).1 })];
        let read = ReadBack::read(|table, keys| {
            Ok::<_, Infallible>(match (table.name, keys) {
                ("FRONTENDS", None) => Rows::of::<Frontends>(frontends),
                ("SERVICES", None) => Rows::of::<Services>(services),
                ("SOURCE_RANGES", None) => {
                    Rows::of::<SourceRanges>([(SourceRangeKey::default(), 1)])
                }
                ("BACKENDS", None) => Rows::of::<Backends>([(5, BackendRow::default())]),
                ("NETWORKS", None) => Rows::of::<Networks>([]),
                ("SLOTS", Some(keys)) => {
                    assert_eq!(keys, [7u32, 8, 9].as_bytes());
                    Rows::of::<Slots>([(7, 5), (8, 5), (9, 5)])
                }
                other => panic!("unexpected read of {other:?}"),
            })
        })
        .unwrap();
        assert_eq!(read.frontends, frontends);
        assert_eq!(read.services, services);
        assert_eq!(read.source_ranges, [SourceRangeKey::default()]);
        assert_eq!(read.backends.len(), 1);
        assert_eq!(read.slots.values().collect::<Vec<_>>(), [&vec![5, 5], &vec![5]]);
    }
}
