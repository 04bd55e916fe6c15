//! Comparison of rows that are read back in parts.

use super::RealizedServices;
use crate::table::{Backends, Expected, Frontends, Rows, Services, Slots, SourceRanges};

impl RealizedServices {
    /// The rows of `BACKENDS`, `SERVICES`, `SOURCE_RANGES` and `FRONTENDS`, as they were written.
    pub(in crate::diff) fn expected(&self) -> [Expected<'_>; 4] {
        [
            Expected::of::<Backends>(self.backends.len(), |id, row| {
                self.backends.owner(*id).is_some_and(|(service, backend)| {
                    *backend == row.backend() && [0, *service].contains(&row.service)
                })
            }),
            Expected::of::<Services>(self.ports.len(), |id, row| {
                self.ports.get(id).is_some_and(|port| port.value() == *row)
            }),
            Expected::of::<SourceRanges>(self.ranges.len(), |key, _| self.ranges.contains(key)),
            Expected::rows::<Frontends>(&self.frontends),
        ]
    }

    /// The slots of Service ports.
    pub(in crate::diff) fn slots_of(&self, services: &Rows) -> Rows {
        let ports = services.typed::<Services>().filter_map(|(id, _)| self.ports.get(&id));
        let sets = ports.flat_map(|port| port.sets());
        Rows::of::<Slots>(sets.flat_map(|set| (set.range.offset..).zip(set.ids.iter().copied())))
    }
}
