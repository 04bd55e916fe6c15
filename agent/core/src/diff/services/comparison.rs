//! Comparison of rows that are read back in parts.

use super::RealizedServices;
use crate::table::{Backends, Frontends, Rows, Services, Slots, SourceRanges, Table, TableSpec};

impl RealizedServices {
    /// Whether rows of `FRONTENDS`, `SOURCE_RANGES`, `SERVICES` or `BACKENDS` are as they were written.
    pub(in crate::diff) fn holds(&self, rows: &Rows) -> bool {
        if rows.table == Frontends::SPEC {
            rows.typed::<Frontends>().all(|(key, row)| self.frontends.get(&key) == Some(&row))
        } else if rows.table == SourceRanges::SPEC {
            rows.typed::<SourceRanges>().all(|(key, _)| self.ranges.contains(&key))
        } else if rows.table == Services::SPEC {
            rows.typed::<Services>()
                .all(|(id, row)| self.ports.get(&id).is_some_and(|port| port.value() == row))
        } else {
            rows.typed::<Backends>().all(|(id, row)| {
                self.backends.owner(id).is_some_and(|(service, backend)| {
                    *backend == row.backend() && [0, *service].contains(&row.service)
                })
            })
        }
    }

    /// Number of rows of `FRONTENDS`, `SOURCE_RANGES`, `SERVICES` or `BACKENDS`.
    pub(in crate::diff) fn count(&self, table: &'static TableSpec) -> usize {
        if table == Frontends::SPEC {
            self.frontends.len()
        } else if table == SourceRanges::SPEC {
            self.ranges.len()
        } else if table == Services::SPEC {
            self.ports.len()
        } else {
            self.backends.len()
        }
    }

    /// The slots of Service ports.
    pub(in crate::diff) fn slots_of(&self, services: &Rows) -> Rows {
        let ports = services.typed::<Services>().filter_map(|(id, _)| self.ports.get(&id));
        let sets = ports.flat_map(|port| port.sets());
        Rows::of::<Slots>(sets.flat_map(|set| (set.range.offset..).zip(set.ids.iter().copied())))
    }
}
