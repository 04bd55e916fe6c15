//! The rows of a plan that is being made.

use std::collections::BTreeSet;

use sluice_abi::{
    Backend, BackendRow, Frontend, FrontendKey, ServicePort, SlotRange, SourceRangeKey, proto,
};

use super::{Capacity, CapacityError, Plan, RealizedServices, StaleBackend};
use crate::table::{Backends, Frontends, Services, Slots, SourceRanges, Write};

/// The rows of a plan, and what it releases.
#[derive(Default)]
pub(super) struct Draft {
    pub put_backends: Vec<(u32, BackendRow)>,
    pub put_slots: Vec<(SlotRange, Box<[u32]>)>,
    pub put_services: Vec<(u32, ServicePort)>,
    /// Rows that lose their Local set, after the frontends that used it.
    pub late_services: Vec<(u32, ServicePort)>,
    pub put_ranges: Vec<SourceRangeKey>,
    pub delete_ranges: Vec<SourceRangeKey>,
    pub put_frontends: Vec<(FrontendKey, Frontend)>,
    pub delete_frontends: Vec<FrontendKey>,
    pub delete_services: Vec<u32>,
    /// Service ports that may have no frontend any more.
    pub released_services: BTreeSet<u32>,
    /// Backends that may have no Service port any more.
    pub released_backends: BTreeSet<u32>,
    /// Backends that no Service port has.
    pub unclaimed: Vec<(u32, Backend)>,
    pub over_capacity: Vec<CapacityError>,
    /// Entries for the rows that do not fit.
    pub missing: Option<Capacity>,
}

impl RealizedServices {
    /// Turns the draft into writes and removes backends that are not referenced any more.
    pub(super) fn write_draft(&mut self, mut draft: Draft, plan: &mut Plan) {
        plan.needed = self.needed(&draft);
        let mut delete_backends = Vec::new();
        for id in draft.released_backends {
            if let Some(owner) = self.backends.remove_unused(id) {
                delete_backends.push(id);
                let (_, backend) = owner;
                if backend.proto == proto::UDP && self.backends.get(&owner).is_none() {
                    plan.stale_udp.push(StaleBackend { backend, id });
                }
            }
        }
        for (id, backend) in draft.unclaimed {
            delete_backends.push(id);
            self.backends.quarantine(id);
            if backend.proto == proto::UDP {
                plan.stale_udp.push(StaleBackend { backend, id });
            }
        }
        draft.delete_ranges.iter().for_each(|range| self.ranges.remove(range));
        delete_backends.append(&mut self.orphaned);
        plan.stale_udp.sort_unstable();
        for id in &draft.delete_services {
            if self.services.remove_unused(*id).is_none() {
                self.services.quarantine(*id);
            }
        }
        draft.put_slots.sort_unstable_by_key(|(range, _)| *range);
        let slots = draft
            .put_slots
            .iter()
            .flat_map(|(range, ids)| (range.offset..).zip(ids.iter().copied()));
        let writes = [
            Write::put::<Backends>(draft.put_backends),
            Write::put::<Slots>(slots),
            Write::put::<Services>(draft.put_services),
            Write::put::<SourceRanges>(draft.put_ranges.into_iter().map(|key| (key, 1))),
            Write::put::<Frontends>(draft.put_frontends),
            Write::delete::<Frontends>(draft.delete_frontends),
            Write::delete::<SourceRanges>(draft.delete_ranges.iter().copied()),
            Write::put_late::<Services>(draft.late_services),
            Write::delete::<Services>(draft.delete_services),
            Write::delete::<Backends>(delete_backends),
        ];
        plan.writes.extend(writes.into_iter().flatten());
        plan.over_capacity.append(&mut draft.over_capacity);
        // A plan without writes takes no time and does not shorten the quarantine, unless a row
        // waits for the slots in it.
        plan.space_pending = !self.freed.is_empty();
        if !plan.writes.is_empty() || !plan.over_capacity.is_empty() {
            self.freed.end_plan().into_iter().for_each(|range| self.slots.free(range));
            self.services.end_plan();
            self.backends.end_plan();
        }
    }
}
