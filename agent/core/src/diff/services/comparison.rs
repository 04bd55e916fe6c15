//! Comparison of rows that are read back in parts.

use super::RealizedServices;
use crate::table::{Backends, Frontends, Rows, Slots, Table, TableSpec};

impl RealizedServices {
    /// Whether rows of `FRONTENDS` or `BACKENDS` are as they were written.
    pub(in crate::diff) fn holds(&self, rows: &Rows) -> bool {
        if rows.table == Frontends::SPEC {
            rows.typed::<Frontends>()
                .all(|(key, row)| self.frontends.get(&key).is_some_and(|f| f.value == row))
        } else {
            rows.typed::<Backends>().all(|(id, row)| {
                self.backends.owner(id).is_some_and(|(_, backend)| *backend == row)
            })
        }
    }

    /// Number of rows of `FRONTENDS` or `BACKENDS`.
    pub(in crate::diff) fn count(&self, table: &'static TableSpec) -> usize {
        if table == Frontends::SPEC { self.frontends.len() } else { self.backends.len() }
    }

    /// The slots of frontends.
    pub(in crate::diff) fn slots_of(&self, frontends: &Rows) -> Rows {
        let realized =
            frontends.typed::<Frontends>().filter_map(|(key, _)| self.frontends.get(&key));
        let slots = realized
            .flat_map(|frontend| (frontend.value.slots_offset..).zip(frontend.ids.iter().copied()));
        Rows::of::<Slots>(slots)
    }
}
