//! Frontends, slots and backends: the rows in the kernel, and the ids and slots in use.

mod comparison;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use sluice_abi::{Backend, Frontend, FrontendKey, proto};

use super::{Capacity, CapacityError, Plan, ReadBack, StaleBackend, range_of};
use crate::compile::{FrontendRow, ServicePortId};
use crate::ids::Ids;
use crate::quarantine::Quarantine;
use crate::slots::{SlotAllocator, SlotRange};
use crate::table::{Backends, Frontends, Slots, Write};
use crate::tables::Tables;

/// A frontend in the kernel.
#[derive(Clone, Debug)]
struct RealizedFrontend {
    value: Frontend,
    /// Contents of its slots.
    ids: Box<[u32]>,
    /// Ids of unselected backends that existing flows keep.
    unselected: Box<[u32]>,
    /// Whether its service id is known to belong to the Service port of the desired row.
    owned: bool,
    /// Its slots are invalid or belong to another frontend: they are neither kept nor freed.
    broken: bool,
}

/// Owner of a backend id: id of the Service port, address and port. Two Service ports with the same
/// endpoint have two ids for it, so that a UDP flow or socket leaves an endpoint that its Service
/// lost, even if another Service still has it.
type ServiceBackend = (u32, Backend);

/// The Service rows in the kernel. Ids and slots are the only state in this crate that depends on
/// the past.
#[derive(Clone, Debug)]
pub struct RealizedServices {
    frontends: BTreeMap<FrontendKey, RealizedFrontend>,
    services: Ids<ServicePortId>,
    backends: Ids<ServiceBackend>,
    /// Backends in the map that no frontend selects and whose Service port is therefore not known.
    /// The first plan gives them to the Service ports that have them, and deletes the others.
    unclaimed: BTreeMap<Backend, Vec<u32>>,
    slots: SlotAllocator,
    freed: Quarantine<SlotRange>,
    /// Frontends that did not fit.
    over_capacity: BTreeSet<FrontendKey>,
    /// Invalid entries of `BACKENDS`.
    orphaned: Vec<u32>,
    capacity: Capacity,
}

/// The rows of a plan that is being made.
#[derive(Default)]
struct Draft {
    put_backends: Vec<(u32, Backend)>,
    put_slots: Vec<(SlotRange, Vec<u32>)>,
    put_frontends: Vec<(FrontendKey, Frontend)>,
    delete_frontends: Vec<FrontendKey>,
    released_backends: BTreeSet<u32>,
    /// Backends that no Service port has.
    unclaimed: Vec<(u32, Backend)>,
    released_services: BTreeSet<u32>,
    over_capacity: Vec<CapacityError>,
}

impl RealizedServices {
    /// Adopts the rows in the maps. A frontend whose slots overlap those of another, lie outside of
    /// the array or name unknown backends is broken; the first plan rewrites or deletes it.
    pub(super) fn new(read_back: &ReadBack, capacity: Capacity) -> RealizedServices {
        let mut realized = RealizedServices {
            frontends: BTreeMap::new(),
            services: Ids::default(),
            backends: Ids::default(),
            unclaimed: BTreeMap::new(),
            slots: SlotAllocator::new(capacity.slots),
            freed: Quarantine::default(),
            over_capacity: BTreeSet::new(),
            orphaned: Vec::new(),
            capacity,
        };
        let mut unclaimed: BTreeMap<u32, Backend> = read_back.backends.iter().copied().collect();
        realized.orphaned.extend(unclaimed.remove(&0).map(|_| 0));
        for (key, value) in &read_back.frontends {
            let frontend = realized.adopt(*value, read_back, &mut unclaimed);
            realized.services.skip_to(value.service);
            realized.frontends.insert(*key, frontend);
        }
        for (id, backend) in unclaimed {
            realized.backends.skip_to(id);
            realized.unclaimed.entry(backend).or_default().push(id);
        }
        realized
    }

    /// A backend belongs to the Service port of the first frontend that selects it.
    fn adopt(
        &mut self,
        value: Frontend,
        read_back: &ReadBack,
        unclaimed: &mut BTreeMap<u32, Backend>,
    ) -> RealizedFrontend {
        let mut frontend = RealizedFrontend {
            value,
            ids: Box::default(),
            unselected: Box::default(),
            owned: false,
            broken: true,
        };
        let range = range_of(&value);
        let known = |id: &u32| unclaimed.contains_key(id) || self.backends.owner(*id).is_some();
        let ids = match read_back.slots.get(&range) {
            _ if range.len == 0 => Vec::new(),
            Some(ids) if ids.len() == range.len as usize && ids.iter().all(known) => ids.clone(),
            _ => return frontend,
        };
        if self.slots.reserve(range) {
            for id in &ids {
                if let Some(backend) = unclaimed.remove(id) {
                    self.backends.adopt(*id, &(value.service, backend));
                }
                self.backends.acquire(*id);
            }
            frontend.ids = ids.into();
            frontend.broken = false;
        }
        frontend
    }

    /// Quarantines the slots and ids that only the state before a failed write used.
    pub(super) fn succeed(&mut self, previous: &RealizedServices) {
        self.services.succeed(&previous.services);
        // The previous instance knows the Service ports of backends that no frontend selects.
        for (backend, ids) in &mut self.unclaimed {
            ids.retain(|id| match previous.backends.owner(*id) {
                Some(owner) if owner.1 == *backend => !self.backends.adopt(*id, owner),
                _ => true,
            });
        }
        self.unclaimed.retain(|_, ids| !ids.is_empty());
        self.backends.succeed(&previous.backends);
        let used = previous.frontends.values().filter(|frontend| !frontend.broken);
        let used = used.map(|frontend| range_of(&frontend.value));
        for range in used.chain(previous.freed.iter()) {
            if range.len > 0 && self.slots.reserve(range) {
                self.freed.add(range);
            }
        }
    }

    /// Adds the writes that lead to the desired rows, of the changed keys or of all.
    pub(super) fn plan(
        &mut self,
        tables: &Tables,
        changed: Option<&BTreeSet<FrontendKey>>,
        plan: &mut Plan,
    ) {
        let mut draft = Draft::default();
        let retry = mem::take(&mut self.over_capacity);
        match changed {
            Some(changed) => {
                for key in retry.union(changed) {
                    self.reconcile(key, tables.frontend(key), &mut draft);
                }
            }
            None => {
                self.adopt_service_ids(tables);
                for (key, row) in tables.frontends() {
                    self.reconcile(key, Some(row), &mut draft);
                }
                let undesired = |key: &&FrontendKey| tables.frontend(key).is_none();
                for key in self.frontends.keys().filter(undesired).copied().collect::<Vec<_>>() {
                    self.reconcile(&key, None, &mut draft);
                }
                draft.released_backends.extend(self.backends.ids());
                let unclaimed = mem::take(&mut self.unclaimed).into_iter();
                draft.unclaimed = unclaimed
                    .flat_map(|(backend, ids)| ids.into_iter().map(move |id| (id, backend)))
                    .collect();
            }
        }
        self.write_draft(draft, plan);
    }

    /// After a restart, a Service port keeps the id that its frontend has in the kernel.
    fn adopt_service_ids(&mut self, tables: &Tables) {
        for (key, frontend) in &self.frontends {
            if let Some(row) = tables.frontend(key)
                && self.services.get(&row.service).is_none()
            {
                self.services.adopt(frontend.value.service, &row.service);
            }
        }
    }

    /// Drafts the rows that lead one frontend to its desired row.
    fn reconcile(&mut self, key: &FrontendKey, row: Option<&FrontendRow>, draft: &mut Draft) {
        let found = self.frontends.remove(key);
        match (found, row) {
            (None, None) => {}
            (Some(found), None) => {
                draft.delete_frontends.push(*key);
                self.quarantine_slots(&found);
                self.release(found, draft);
            }
            (found, Some(row)) => {
                if let Some(frontend) = self.reconcile_row(*key, found, row, draft) {
                    self.frontends.insert(*key, frontend);
                }
            }
        }
    }

    /// Returns the frontend after the plan.
    fn reconcile_row(
        &mut self,
        key: FrontendKey,
        found: Option<RealizedFrontend>,
        row: &FrontendRow,
        draft: &mut Draft,
    ) -> Option<RealizedFrontend> {
        let service = self.services.get_or_insert(&row.service).0;
        let same = |found: &RealizedFrontend| {
            let owners = found.ids.iter().map(|id| self.backends.owner(*id).copied());
            !found.broken && owners.eq(row.backends.iter().map(|b| Some((service, *b))))
        };
        let (range, ids) = match &found {
            Some(found) if same(found) => (range_of(&found.value), found.ids.clone()),
            _ => match self.allocate(found.is_none(), service, row, draft) {
                Ok(placed) => placed,
                Err(error) => {
                    draft.over_capacity.push(error);
                    draft.released_services.insert(service);
                    self.over_capacity.insert(key);
                    return found;
                }
            },
        };
        let value = Frontend {
            service,
            slots_offset: range.offset,
            slots_len: range.len,
            flags: row.flags,
        };
        // Unselected backends stay in the kernel if they are there; others are not written.
        let unselected: Box<[u32]> =
            row.unselected.iter().filter_map(|b| self.backend_id(service, *b)).collect();

        ids.iter().chain(&unselected).for_each(|id| self.backends.acquire(*id));
        self.services.acquire(service);
        if found.as_ref().is_none_or(|found| found.value != value) {
            draft.put_frontends.push((key, value));
        }
        if let Some(found) = found {
            if range_of(&found.value) != range {
                self.quarantine_slots(&found);
            }
            self.release(found, draft);
        }
        Some(RealizedFrontend { value, ids, unselected, owned: true, broken: false })
    }

    /// Allocates slots and ids for the backends of a row, and drafts their rows. Allocates nothing
    /// if anything exceeds a capacity.
    fn allocate(
        &mut self,
        new: bool,
        service_id: u32,
        row: &FrontendRow,
        draft: &mut Draft,
    ) -> Result<(SlotRange, Box<[u32]>), CapacityError> {
        let service = || row.service.clone();
        // Deletions come last in a plan: rows that are deleted still count.
        let max = self.capacity.frontends;
        if new && self.frontends.len() + draft.delete_frontends.len() >= max as usize {
            return Err(CapacityError::Frontends { service: service(), max });
        }
        let unclaimed: usize = self.unclaimed.values().map(Vec::len).sum();
        let used = self.backends.len() + self.orphaned.len() + unclaimed;
        let needed = row
            .backends
            .iter()
            .filter(|b| self.backends.get(&(service_id, **b)).is_none())
            .filter(|b| !self.unclaimed.contains_key(b))
            .count();
        let max = self.capacity.backends;
        if used + needed > max as usize {
            return Err(CapacityError::Backends { service: service(), needed, used, max });
        }
        let max = self.capacity.slots;
        let len = u32::try_from(row.backends.len()).unwrap_or(u32::MAX);
        let range = self.slots.allocate(len).ok_or_else(|| CapacityError::Slots {
            service: service(),
            needed: len,
            free: self.slots.available(),
            max,
        })?;
        let mut ids = Vec::with_capacity(row.backends.len());
        for backend in &row.backends {
            let id = self.backend_id(service_id, *backend).unwrap_or_else(|| {
                let (id, _) = self.backends.get_or_insert(&(service_id, *backend));
                draft.put_backends.push((id, *backend));
                id
            });
            ids.push(id);
        }
        draft.put_slots.push((range, ids.clone()));
        Ok((range, ids.into()))
    }

    /// The id that a Service port has for a backend, or claims.
    fn backend_id(&mut self, service: u32, backend: Backend) -> Option<u32> {
        let owner = (service, backend);
        if let Some(id) = self.backends.get(&owner) {
            return Some(id);
        }
        let ids = self.unclaimed.get_mut(&backend)?;
        let id = ids.pop();
        if ids.is_empty() {
            self.unclaimed.remove(&backend);
        }
        id.filter(|id| self.backends.adopt(*id, &owner))
    }

    /// Frees the slots of a frontend, once the quarantine ends.
    fn quarantine_slots(&mut self, frontend: &RealizedFrontend) {
        let range = range_of(&frontend.value);
        if !frontend.broken && range.len > 0 {
            self.freed.add(range);
        }
    }

    /// Releases the ids of a frontend that was deleted or replaced.
    fn release(&mut self, frontend: RealizedFrontend, draft: &mut Draft) {
        for id in frontend.ids.into_iter().chain(frontend.unselected) {
            if self.backends.release(id) {
                draft.released_backends.insert(id);
            }
        }
        if frontend.owned && self.services.release(frontend.value.service) {
            draft.released_services.insert(frontend.value.service);
        }
    }

    /// Turns the draft into writes and removes what is not referenced any more.
    fn write_draft(&mut self, mut draft: Draft, plan: &mut Plan) {
        let mut delete_backends = Vec::new();
        for id in draft.released_backends {
            if let Some(owner) = self.backends.remove_unused(id) {
                delete_backends.push(id);
                let (service, backend) = owner;
                if backend.proto == proto::UDP && self.backends.get(&owner).is_none() {
                    let service = self.services.owner(service).cloned();
                    plan.stale_udp.push(StaleBackend { backend, id, service });
                }
            }
        }
        for (id, backend) in draft.unclaimed {
            delete_backends.push(id);
            self.backends.quarantine(id);
            if backend.proto == proto::UDP {
                plan.stale_udp.push(StaleBackend { backend, id, service: None });
            }
        }
        delete_backends.append(&mut self.orphaned);
        plan.stale_udp.sort_unstable();
        for id in draft.released_services {
            self.services.remove_unused(id);
        }
        draft.put_slots.sort_unstable_by_key(|(range, _)| *range);
        let slots = draft.put_slots.into_iter().flat_map(|(range, ids)| (range.offset..).zip(ids));
        let writes = [
            Write::put::<Backends>(draft.put_backends),
            Write::put::<Slots>(slots),
            Write::put::<Frontends>(draft.put_frontends),
            Write::delete::<Frontends>(draft.delete_frontends),
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

#[cfg(test)]
mod tests;
