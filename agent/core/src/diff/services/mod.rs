//! Frontends, Service ports, slots and backends: the rows in the kernel, and the ids and slots in
//! use.

mod comparison;
mod draft;
mod needed;
mod port;
mod ranges;
mod reconcile;
mod succession;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use sluice_abi::{Backend, BackendRow, Frontend, FrontendKey, ServicePort, SlotRange};

use self::draft::Draft;
use self::port::{RealizedPort, RealizedSet};
use self::ranges::RealizedRanges;
use super::{Capacity, CapacityError, Plan, ReadBack, StaleBackend};
use crate::compile::ServicePortId;
use crate::ids::Ids;
use crate::quarantine::Quarantine;
use crate::slots::SlotAllocator;
use crate::tables::{Changed, Tables};

/// Owner of a backend id: id of the Service port, address and port. Two Service ports with the same
/// endpoint have two ids for it, so that a UDP flow or socket leaves an endpoint that its Service
/// lost, even if another Service still has it.
type ServiceBackend = (u32, Backend);

/// The Service rows in the kernel. Ids and slots are the only state in this crate that depends on
/// the past.
#[derive(Clone, Debug)]
pub struct RealizedServices {
    frontends: BTreeMap<FrontendKey, Frontend>,
    /// Rows of `SERVICES`.
    ports: BTreeMap<u32, RealizedPort>,
    /// Owners of the rows of `SERVICES`, as far as they are known.
    services: Ids<ServicePortId>,
    backends: Ids<ServiceBackend>,
    /// Backends in the map that no Service port selects: the Service ports in their rows, or 0, and
    /// their ids. The first plan gives them to the Service ports that have them, and deletes the others.
    unclaimed: BTreeMap<Backend, Vec<(u32, u32)>>,
    /// Rows of `SOURCE_RANGES`.
    ranges: RealizedRanges,
    slots: SlotAllocator,
    freed: Quarantine<SlotRange>,
    /// Service ports that did not fit.
    waiting_ports: BTreeSet<ServicePortId>,
    /// Service ports whose source ranges did not fit.
    waiting_ranges: BTreeSet<ServicePortId>,
    /// Frontends that did not fit, or whose Service port did not.
    waiting_frontends: BTreeSet<FrontendKey>,
    /// Invalid entries of `BACKENDS`.
    orphaned: Vec<u32>,
    capacity: Capacity,
}

impl RealizedServices {
    /// Adopts the rows in the maps. A set whose slots overlap those of another, lie outside of the
    /// array or name unknown backends is broken; the first plan rewrites or deletes it.
    pub(super) fn new(read_back: &ReadBack, capacity: Capacity) -> RealizedServices {
        let mut realized = RealizedServices {
            frontends: read_back.frontends.iter().copied().collect(),
            ports: BTreeMap::new(),
            services: Ids::default(),
            backends: Ids::default(),
            unclaimed: BTreeMap::new(),
            ranges: RealizedRanges::default(),
            slots: SlotAllocator::new(capacity.slots),
            freed: Quarantine::default(),
            waiting_ports: BTreeSet::new(),
            waiting_ranges: BTreeSet::new(),
            waiting_frontends: BTreeSet::new(),
            orphaned: Vec::new(),
            capacity,
        };
        realized.backends.reserve(read_back.backends.len());
        read_back.source_ranges.iter().for_each(|key| realized.ranges.insert(*key));
        let mut unclaimed: BTreeMap<u32, BackendRow> = read_back.backends.iter().copied().collect();
        realized.orphaned.extend(unclaimed.remove(&0).map(|_| 0));
        for (service, value) in &read_back.services {
            let port = realized.adopt(*service, value, read_back, &mut unclaimed);
            realized.ports.insert(*service, port);
            realized.services.skip_to(*service);
        }
        for (_, frontend) in &read_back.frontends {
            realized.services.skip_to(frontend.service);
            realized.join_port(frontend.service);
        }
        for (id, row) in unclaimed {
            realized.backends.skip_to(id);
            realized.unclaimed.entry(row.backend()).or_default().push((row.service, id));
        }
        realized
    }

    fn adopt(
        &mut self,
        service: u32,
        value: &ServicePort,
        read_back: &ReadBack,
        unclaimed: &mut BTreeMap<u32, BackendRow>,
    ) -> RealizedPort {
        let cluster = self.adopt_set(service, value.cluster, read_back, unclaimed);
        let local = (value.local != SlotRange::default())
            .then(|| Box::new(self.adopt_set(service, value.local, read_back, unclaimed)));
        let affinity_seconds = value.affinity_seconds;
        RealizedPort { cluster, local, affinity_seconds, ..RealizedPort::default() }
    }

    /// A backend without Service port belongs to the first one that selects it.
    fn adopt_set(
        &mut self,
        service: u32,
        range: SlotRange,
        read_back: &ReadBack,
        unclaimed: &mut BTreeMap<u32, BackendRow>,
    ) -> RealizedSet {
        let known = |id: &u32| match unclaimed.get(id) {
            Some(row) => row.service == 0 || row.service == service,
            None => self.backends.owner(*id).is_some(),
        };
        let ids = match read_back.slots.get(&range) {
            _ if range.len == 0 => &[][..],
            Some(ids) if ids.len() == range.len as usize && ids.iter().all(known) => ids,
            _ => return RealizedSet { range, ids: Box::default(), broken: true },
        };
        if !self.slots.reserve(range) {
            return RealizedSet { range, ids: Box::default(), broken: true };
        }
        for id in ids {
            if let Some(row) = unclaimed.remove(id) {
                self.backends.adopt(*id, &(service, row.backend()));
            }
            self.backends.acquire(*id);
        }
        RealizedSet { range, ids: ids.into(), broken: false }
    }

    /// After a restart, a Service port keeps the id that its frontends have in the kernel, unless a
    /// frontend with that id now belongs to another Service port.
    fn adopt_service_ids(&mut self, tables: &Tables) {
        let mut owners: BTreeMap<u32, Option<&ServicePortId>> = BTreeMap::new();
        for (key, value) in &self.frontends {
            let unknown = self.ports.contains_key(&value.service)
                && self.services.owner(value.service).is_none();
            let port = tables.frontend(key).and_then(|frontend| frontend.port);
            if let Some(port) = port.filter(|_| unknown) {
                let owner = owners.entry(value.service).or_insert(Some(&port.id));
                *owner = owner.filter(|owner| **owner == port.id);
            }
        }
        for (id, owner) in owners {
            if let Some(owner) = owner.filter(|owner| self.services.get(owner).is_none()) {
                self.services.adopt(id, owner);
            }
        }
    }

    /// Adds the writes that lead to the desired rows, of what changed or of all.
    pub(super) fn plan(&mut self, tables: &Tables, changed: Option<&Changed>, plan: &mut Plan) {
        let mut draft = Draft::default();
        let mut ports = mem::take(&mut self.waiting_ports);
        ports.append(&mut self.waiting_ranges);
        let frontends = mem::take(&mut self.waiting_frontends);
        match changed {
            Some(changed) => {
                for id in ports.union(&changed.ports) {
                    match tables.port(id) {
                        Some(row) => self.reconcile_port(row, &mut draft),
                        None => draft.released_services.extend(self.services.get(id)),
                    }
                }
                for key in frontends.union(&changed.frontends) {
                    self.reconcile_frontend(key, tables.frontend(key), &mut draft);
                }
            }
            None => {
                self.adopt_service_ids(tables);
                let rows = Capacity::for_tables(tables);
                self.services.reserve(rows.services.min(self.capacity.services) as usize);
                self.backends.reserve(rows.backends.min(self.capacity.backends) as usize);
                for row in tables.ports() {
                    self.reconcile_port(row, &mut draft);
                }
                for (key, frontend) in tables.frontends() {
                    self.reconcile_frontend(key, Some(frontend), &mut draft);
                }
                let undesired = |key: &&FrontendKey| tables.frontend(key).is_none();
                for key in self.frontends.keys().filter(undesired).copied().collect::<Vec<_>>() {
                    self.reconcile_frontend(&key, None, &mut draft);
                }
                draft.released_services.extend(self.ports.keys());
                for service in self.ranges.services().filter(|id| !self.ports.contains_key(id)) {
                    draft.delete_ranges.extend(self.ranges.of(service));
                }
                draft.released_backends.extend(self.backends.ids());
                let unclaimed = mem::take(&mut self.unclaimed).into_iter();
                draft.unclaimed = unclaimed
                    .flat_map(|(backend, ids)| ids.into_iter().map(move |(_, id)| (id, backend)))
                    .collect();
            }
        }
        self.remove_ports(tables, &mut draft);
        self.write_draft(draft, plan);
    }
}

#[cfg(test)]
mod tests;
