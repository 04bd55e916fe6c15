//! Drafts the rows that lead one Service port or one frontend to its desired row.

use sluice_abi::{
    Backend, BackendRow, Frontend, FrontendKey, ServicePort, SlotRange, frontend_flags,
};

use super::draft::Draft;
use super::port::{RealizedPort, RealizedSet};
use super::{CapacityError, RealizedServices};
use crate::compile::{PortRow, ServicePortId};
use crate::tables::{FrontendView, Tables};

impl RealizedServices {
    /// A Service port that does not fit keeps the row that it has.
    pub(super) fn reconcile_port(&mut self, row: &PortRow, draft: &mut Draft) {
        let (service, _) = self.services.get_or_insert(&row.id);
        let found = self.ports.remove(&service);
        match self.replaced(service, found.as_ref(), row, draft) {
            Ok(port) => {
                if let Some(found) = found {
                    self.release(found, Some(&port), draft);
                }
                self.ports.insert(service, port);
                self.reconcile_ranges(service, row, draft);
            }
            Err(error) => {
                self.add_missing_port(found.is_none(), service, row, draft);
                draft.over_capacity.push(error);
                self.waiting_ports.insert(row.id.clone());
                match found {
                    Some(found) => {
                        self.ports.insert(service, found);
                        // Its clients are limited whatever its endpoints are.
                        self.reconcile_ranges(service, row, draft);
                    }
                    None => drop(self.services.remove_unused(service)),
                }
            }
        }
    }

    /// Drafts the row of a Service port and what it refers to. Returns the port after the plan.
    fn replaced(
        &mut self,
        service: u32,
        found: Option<&RealizedPort>,
        row: &PortRow,
        draft: &mut Draft,
    ) -> Result<RealizedPort, CapacityError> {
        // Deletions come last in a plan, and those of Service ports are drafted last: all count.
        let max = self.capacity.services;
        if found.is_none() && self.ports.len() >= max as usize {
            return Err(CapacityError::Services { service: row.id.clone(), max });
        }
        let local = row.local.as_deref().unwrap_or_default();
        let found_local = found.and_then(|port| port.local.as_deref());
        let kept_cluster = found
            .map(|port| &port.cluster)
            .filter(|set| self.holds_set(service, set, &row.cluster));
        let kept_local = found_local.filter(|set| self.holds_set(service, set, local));
        let wanted = [
            if kept_cluster.is_some() { &[][..] } else { &row.cluster },
            if kept_local.is_some() { &[][..] } else { local },
        ];
        let [cluster, local] = self.allocate(service, &row.id, wanted, draft)?;
        let cluster = kept_cluster.cloned().unwrap_or(cluster);
        let local = kept_local.cloned().unwrap_or(local);
        // Unselected backends stay in the kernel if they are there; others are not written.
        let unselected =
            row.unselected.iter().filter_map(|b| self.backend_id(service, *b, draft)).collect();
        let port = RealizedPort {
            cluster,
            local: (local.range.len > 0).then(|| Box::new(local)),
            unselected,
            affinity_seconds: row.affinity_seconds,
            frontends: found.map_or(0, |port| port.frontends),
        };
        port.ids().for_each(|id| self.backends.acquire(id));

        let value = port.value();
        // Frontends use the Local set until they are written.
        let leaves_local = row.local.is_none() && found_local.is_some_and(|set| set.range.len > 0);
        let first = match found_local {
            Some(set) if leaves_local => ServicePort { local: set.range, ..value },
            _ => value,
        };
        if found.is_none_or(|port| port.value() != first) {
            draft.put_services.push((service, first));
        }
        if leaves_local {
            draft.late_services.push((service, value));
        }
        Ok(port)
    }

    /// Whether a set has exactly these backends.
    fn holds_set(&self, service: u32, set: &RealizedSet, wanted: &[Backend]) -> bool {
        let owners = set.ids.iter().map(|id| self.backends.owner(*id).copied());
        // An empty set has no position.
        let placed = set.range.len > 0 || set.range == SlotRange::default();
        !set.broken && placed && owners.eq(wanted.iter().map(|b| Some((service, *b))))
    }

    /// Allocates slots and ids for two sets of backends, and drafts their rows. Allocates nothing if
    /// anything exceeds a capacity.
    fn allocate(
        &mut self,
        service: u32,
        id: &ServicePortId,
        wanted: [&[Backend]; 2],
        draft: &mut Draft,
    ) -> Result<[RealizedSet; 2], CapacityError> {
        // Rows that are deleted still count.
        let used = self.used_backends();
        let max = self.capacity.backends;
        let exceeds = |needed| used + needed > max as usize;
        // An upper bound first: ids are looked up only when it does not fit.
        if exceeds(wanted[0].len() + wanted[1].len()) {
            let needed = self.without_id(service, wanted.into_iter().flatten()).len();
            if exceeds(needed) {
                return Err(CapacityError::Backends { service: id.clone(), needed, used, max });
            }
        }
        let first = self.allocate_slots(wanted[0], id)?;
        let second = self.allocate_slots(wanted[1], id).inspect_err(|_| self.slots.free(first))?;
        Ok([(first, wanted[0]), (second, wanted[1])].map(|(range, backends)| {
            let ids: Box<[u32]> = backends
                .iter()
                .map(|backend| {
                    self.backend_id(service, *backend, draft).unwrap_or_else(|| {
                        let id = self.backends.add(&(service, *backend));
                        draft.put_backends.push((id, BackendRow::new(service, *backend)));
                        id
                    })
                })
                .collect();
            if range.len > 0 {
                draft.put_slots.push((range, ids.clone()));
            }
            RealizedSet { range, ids, broken: false }
        }))
    }

    fn allocate_slots(
        &mut self,
        backends: &[Backend],
        id: &ServicePortId,
    ) -> Result<SlotRange, CapacityError> {
        let len = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        self.slots.allocate(len).ok_or_else(|| CapacityError::Slots {
            service: id.clone(),
            needed: len,
            free: self.slots.available(),
            max: self.capacity.slots,
        })
    }

    /// The id that a Service port has for a backend, or claims.
    fn backend_id(&mut self, service: u32, backend: Backend, draft: &mut Draft) -> Option<u32> {
        let owner = (service, backend);
        if let Some(id) = self.backends.get(&owner) {
            return Some(id);
        }
        let at = self.claimable(service, &backend)?;
        let ids = self.unclaimed.get_mut(&backend)?;
        let (former, id) = ids.swap_remove(at);
        if ids.is_empty() {
            self.unclaimed.remove(&backend);
        }
        if former != service {
            draft.put_backends.push((id, BackendRow::new(service, backend)));
        }
        self.backends.adopt(id, &owner).then_some(id)
    }

    /// The position in `unclaimed` of a backend that a Service port can claim: its own, or that of a
    /// Service port that does not exist.
    pub(super) fn claimable(&self, service: u32, backend: &Backend) -> Option<usize> {
        let ids = self.unclaimed.get(backend)?;
        let own = ids.iter().position(|(former, _)| *former == service);
        own.or_else(|| ids.iter().position(|(former, _)| !self.ports.contains_key(former)))
    }

    /// Releases what a Service port held and its successor does not: its slots are free once the
    /// quarantine ends.
    fn release(&mut self, port: RealizedPort, successor: Option<&RealizedPort>, draft: &mut Draft) {
        for set in port.sets() {
            let kept = successor.is_some_and(|port| port.sets().any(|s| s.range == set.range));
            if !kept && !set.broken && set.range.len > 0 {
                self.freed.add(set.range);
            }
        }
        for id in port.ids() {
            if self.backends.release(id) {
                draft.released_backends.insert(id);
            }
        }
    }

    /// A frontend whose Service port does not fit stays as it is, but does not stay open to all clients
    /// if they are to be limited.
    pub(super) fn reconcile_frontend(
        &mut self,
        key: &FrontendKey,
        desired: Option<FrontendView<'_>>,
        draft: &mut Draft,
    ) {
        let found = self.frontends.get(key).copied();
        let Some(desired) = desired else {
            if let Some(found) = self.frontends.remove(key) {
                draft.delete_frontends.push(*key);
                self.leave_port(found.service, draft);
            }
            return;
        };
        let service = desired.port.map_or(Some(0), |port| self.service_of(&port.id));
        let Some(value) = service.map(|service| desired.row.value(service)) else {
            match found {
                Some(found) if desired.row.limited => self.limit(key, found, draft),
                Some(_) => {}
                None => draft.add_missing_frontend(),
            }
            self.waiting_frontends.insert(*key);
            return;
        };
        if found == Some(value) {
            return;
        }
        // Deletions come last in a plan: rows that are deleted still count.
        let max = self.capacity.frontends;
        if found.is_none() && self.frontends.len() + draft.delete_frontends.len() >= max as usize {
            let service = desired.service.clone();
            draft.add_missing_frontend();
            draft.over_capacity.push(CapacityError::Frontends { service, key: *key, max });
            self.waiting_frontends.insert(*key);
            return;
        }
        draft.put_frontends.push((*key, value));
        self.frontends.insert(*key, value);
        self.join_port(value.service);
        if let Some(found) = found {
            self.leave_port(found.service, draft);
        }
    }

    /// Limits the clients of a frontend that stays as it is.
    fn limit(&mut self, key: &FrontendKey, found: Frontend, draft: &mut Draft) {
        let limited = Frontend { flags: found.flags | frontend_flags::SOURCE_RANGES, ..found };
        if limited != found {
            draft.put_frontends.push((*key, limited));
            self.frontends.insert(*key, limited);
        }
    }

    /// The id of a Service port whose row is as desired.
    fn service_of(&self, id: &ServicePortId) -> Option<u32> {
        self.services.get(id).filter(|_| !self.waiting_ports.contains(id))
    }

    /// Counts a frontend of a Service port; wildcard rows have none.
    pub(super) fn join_port(&mut self, service: u32) {
        if let Some(port) = self.ports.get_mut(&service).filter(|_| service != 0) {
            port.frontends += 1;
        }
    }

    /// Counts a frontend less.
    fn leave_port(&mut self, service: u32, draft: &mut Draft) {
        if let Some(port) = self.ports.get_mut(&service) {
            port.frontends = port.frontends.saturating_sub(1);
            draft.released_services.insert(service);
        }
    }

    /// Removes Service ports that are not desired, unless a frontend that could not be replaced still
    /// refers to them.
    pub(super) fn remove_ports(&mut self, tables: &Tables, draft: &mut Draft) {
        for service in std::mem::take(&mut draft.released_services) {
            let owner = self.services.owner(service);
            let is_desired = owner.is_some_and(|owner| tables.port(owner).is_some());
            let is_used = |port: &RealizedPort| port.frontends > 0;
            if is_desired || self.ports.get(&service).is_none_or(is_used) {
                continue;
            }
            if let Some(port) = self.ports.remove(&service) {
                self.release_ranges(service, &[], draft);
                self.release(port, None, draft);
                draft.delete_services.push(service);
            }
        }
    }
}
