//! Capacities of the maps, and the larger ones that the tables need.
//!
//! Maps that grow are those of [`GROWING`]: another one is a line there and a field of [`Capacity`].
//! A map is replaced by one with the next power of two with a quarter more than is needed, up to the capacity
//! of its [`TableSpec`]. Maps never shrink.

use sluice_abi::map;

use super::CapacityError;
use crate::table::{
    Backends, Frontends, Networks, PolicyClasses, PolicyPeers, Services, Slots, SourceRanges,
    Table, TableSpec,
};
use crate::tables::Tables;

/// Entries by map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Entries of `FRONTENDS`.
    pub frontends: u32,
    /// Entries of `SERVICES`.
    pub services: u32,
    /// Entries of `SLOTS`.
    pub slots: u32,
    /// Entries of `BACKENDS`.
    pub backends: u32,
    /// Entries of `POLICY_CLASSES`.
    pub policy_classes: u32,
    /// Entries of `POLICY_PEERS`.
    pub policy_peers: u32,
    /// Entries of `SOURCE_RANGES`.
    pub source_ranges: u32,
    /// Entries of `NETWORKS`.
    pub networks: u32,
}

/// A map that grows with the Services or the policies.
#[derive(Clone, Copy, Debug)]
pub struct Growing {
    /// The map; its capacity is the largest one.
    pub table: &'static TableSpec,
    /// The first capacity.
    pub initial: u32,
    entries: fn(&mut Capacity) -> &mut u32,
}

/// The maps that grow.
pub const GROWING: [Growing; 6] = [
    Growing::new(Frontends::SPEC, map::FRONTENDS_INITIAL, |capacity| &mut capacity.frontends),
    Growing::new(Services::SPEC, map::SERVICES_INITIAL, |capacity| &mut capacity.services),
    Growing::new(Slots::SPEC, map::SLOTS_INITIAL, |capacity| &mut capacity.slots),
    Growing::new(Backends::SPEC, map::BACKENDS_INITIAL, |capacity| &mut capacity.backends),
    Growing::new(PolicyClasses::SPEC, map::POLICY_CLASSES_INITIAL, |capacity| {
        &mut capacity.policy_classes
    }),
    Growing::new(PolicyPeers::SPEC, map::POLICY_PEERS_INITIAL, |capacity| {
        &mut capacity.policy_peers
    }),
];

impl Growing {
    const fn new(
        table: &'static TableSpec,
        initial: u32,
        entries: fn(&mut Capacity) -> &mut u32,
    ) -> Growing {
        Growing { table, initial, entries }
    }
}

impl Default for Capacity {
    /// The largest capacities.
    fn default() -> Capacity {
        Capacity::NONE.with(|growing| growing.table.capacity)
    }
}

impl Capacity {
    /// No entries in the maps that grow.
    pub const NONE: Capacity = Capacity {
        frontends: 0,
        services: 0,
        slots: 0,
        backends: 0,
        policy_classes: 0,
        policy_peers: 0,
        source_ranges: SourceRanges::SPEC.capacity,
        networks: Networks::SPEC.capacity,
    };

    /// The initial capacities, none above `limit`.
    pub fn initial(limit: Option<u32>) -> Capacity {
        let limit = limit.unwrap_or(u32::MAX);
        Capacity::NONE.with(|growing| growing.initial.min(limit))
    }

    /// Other entries in the maps that grow.
    pub fn with(mut self, mut entries: impl FnMut(&Growing) -> u32) -> Capacity {
        for growing in &GROWING {
            *(growing.entries)(&mut self) = entries(growing);
        }
        self
    }

    /// Entries of a map that grows.
    pub fn of(mut self, growing: &Growing) -> u32 {
        *(growing.entries)(&mut self)
    }

    /// The maps that grow, with their entries.
    pub fn growing(self) -> impl Iterator<Item = (&'static str, u32)> {
        GROWING.iter().map(move |growing| (growing.table.name, self.of(growing)))
    }

    /// The entries that the tables of Services need in empty maps, or more: a backend in both sets of a Service
    /// port counts twice.
    pub fn for_tables(tables: &Tables) -> Capacity {
        let backends = entries(tables.backend_count());
        Capacity {
            frontends: entries(tables.frontend_count()),
            services: entries(tables.port_count()),
            slots: backends,
            backends,
            ..Capacity::NONE
        }
    }

    /// The larger number, in the maps that grow.
    pub fn max(self, other: &Capacity) -> Capacity {
        self.with(|growing| self.of(growing).max(other.of(growing)))
    }

    /// Whether every map that grows has as many entries as needed.
    pub fn holds(self, needed: &Capacity) -> bool {
        GROWING.iter().all(|growing| needed.of(growing) <= self.of(growing))
    }

    /// The sum, in the maps that grow.
    pub fn plus(self, more: &Capacity) -> Capacity {
        self.with(|growing| self.of(growing).saturating_add(more.of(growing)))
    }

    /// Capacities with which the maps hold as many entries as needed, up to `max`; `None` if no map
    /// that is too small can grow. Maps that are nearly full grow together with those that are too
    /// small.
    pub fn grown(self, needed: &Capacity, max: &Capacity) -> Option<Capacity> {
        let helps = |g: &&Growing| needed.of(g) > self.of(g) && self.of(g) < max.of(g);
        GROWING.iter().find(helps)?;
        Some(self.with(|growing| {
            let needed = needed.of(growing);
            let roomy = needed.saturating_add(needed / 4).checked_next_power_of_two();
            roomy.unwrap_or(u32::MAX).min(max.of(growing)).max(self.of(growing))
        }))
    }

    /// At least one entry more than `capacity` in each map that refused a row: a map can have enough
    /// free entries, and none in the right place.
    pub(super) fn beyond(self, capacity: &Capacity, refused: &[CapacityError]) -> Capacity {
        let is_refused = |g: &Growing| refused.iter().any(|error| error.table() == g.table);
        self.with(|growing| match self.of(growing) {
            needed if is_refused(growing) => needed.max(capacity.of(growing).saturating_add(1)),
            needed => needed,
        })
    }
}

/// A number of entries; larger ones than a map can have are the largest.
pub(super) fn entries(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Capacity =
        Capacity { frontends: 1000, services: 16, slots: 1 << 20, backends: 64, ..Capacity::NONE };

    fn capacity(frontends: u32, slots: u32, backends: u32) -> Capacity {
        Capacity { frontends, services: 16, slots, backends, ..Capacity::NONE }
    }

    #[test]
    fn capacity_is_the_power_of_two_with_a_quarter_more_than_is_needed() {
        let small = capacity(16, 16, 16);
        for (needed, expected) in [
            (capacity(17, 0, 0), capacity(32, 16, 16)),
            (capacity(25, 0, 0), capacity(32, 16, 16)),
            (capacity(26, 0, 0), capacity(32, 16, 16)),
            (capacity(28, 0, 0), capacity(64, 16, 16)),
            (capacity(0, 100_000, 17), capacity(16, 131_072, 32)),
            // A map that is nearly full grows along.
            (capacity(17, 14, 12), capacity(32, 32, 16)),
            // Up to the largest capacity.
            (capacity(900, 0, 0), capacity(1000, 16, 16)),
            (capacity(u32::MAX, u32::MAX, u32::MAX), MAX),
        ] {
            assert_eq!(small.grown(&needed, &MAX), Some(expected), "{needed:?}");
        }
    }

    #[test]
    fn maps_that_are_large_enough_or_cannot_grow_do_not_change() {
        let small = capacity(16, 16, 64);
        for needed in [capacity(0, 0, 0), capacity(16, 16, 64), capacity(16, 15, 65)] {
            assert_eq!(small.grown(&needed, &MAX), None, "{needed:?}");
        }
        // The map that cannot grow does not keep another one from it.
        let grown = small.grown(&capacity(17, 0, 65), &MAX);
        assert_eq!(grown, Some(capacity(32, 16, 64)));
        // No map shrinks.
        let pinned = capacity(2000, 16, 16);
        assert_eq!(pinned.grown(&capacity(1, 17, 1), &MAX), Some(capacity(2000, 32, 16)));
    }

    #[test]
    fn largest_capacities_are_those_of_the_specification() {
        let largest: Vec<_> = Capacity::default().growing().collect();
        let expected = [
            ("FRONTENDS", 262_144),
            ("SERVICES", 131_072),
            ("SLOTS", 2_097_152),
            ("BACKENDS", 524_288),
            ("POLICY_CLASSES", 262_144),
            ("POLICY_PEERS", 131_072),
        ];
        assert_eq!(largest, expected);
    }

    #[test]
    fn every_growing_map_has_a_field_of_its_own_and_an_initial_capacity_below_the_largest() {
        let numbered = |n: u32| {
            let mut next = n;
            Capacity::NONE.with(|_| {
                next += 1;
                next
            })
        };
        let entries: Vec<u32> = numbered(0).growing().map(|(_, entries)| entries).collect();
        assert_eq!(entries, (1..=GROWING.len() as u32).collect::<Vec<_>>());
        for growing in &GROWING {
            assert!(growing.initial < growing.table.capacity, "{growing:?}");
            assert!(growing.initial.is_power_of_two() && growing.table.capacity.is_power_of_two());
        }
        assert_eq!(Capacity::initial(Some(8)), Capacity::NONE.with(|_| 8));
    }
}
