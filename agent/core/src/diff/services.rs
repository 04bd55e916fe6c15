//! Frontends, slots and backends: what the kernel holds, and the ids and slots in use.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use sluice_abi::{Backend, Frontend, FrontendKey, proto};

use super::{Capacity, CapacityError, Op, Plan, ReadBack, run_of};
use crate::compile::{FrontendRow, ServicePortId};
use crate::ids::Ids;
use crate::slots::{Run, SlotAllocator};
use crate::tables::Tables;

/// A frontend in the kernel.
#[derive(Clone, Debug)]
struct Live {
    value: Frontend,
    /// Contents of its run.
    ids: Vec<u32>,
    /// Ids of idle backends, kept so that flows stay with them.
    held: Vec<u32>,
    /// Whether its id is known to belong to the desired row's Service port.
    owned: bool,
    /// Its run cannot be trusted and is not ours: rewrite it whatever it reads.
    broken: bool,
}

/// Services as the kernel holds them, with the only memory that core has: ids and slots.
#[derive(Clone, Debug)]
pub struct ServiceTables {
    live: BTreeMap<FrontendKey, Live>,
    services: Ids<ServicePortId>,
    backends: Ids<Backend>,
    slots: SlotAllocator,
    /// Runs freed by the last plan that wrote something, and by the one before.
    resting: [Vec<Run>; 2],
    /// Frontends that did not fit.
    refused: BTreeSet<FrontendKey>,
    /// Entries of `BACKENDS` that cannot be right.
    strays: Vec<u32>,
    capacity: Capacity,
}

/// A plan in the making: one list for each sort of op.
#[derive(Default)]
struct Draft {
    put_backends: Vec<Op>,
    write_slots: Vec<(u32, Vec<u32>)>,
    put_frontends: Vec<Op>,
    delete_frontends: Vec<Op>,
    released_backends: BTreeSet<u32>,
    released_services: BTreeSet<u32>,
    freed: Vec<Run>,
    refused: Vec<CapacityError>,
}

impl ServiceTables {
    /// Takes over what the maps hold. A frontend with a run that overlaps another, lies outside or
    /// names unknown backends is kept in mind as broken, and rewritten or removed by the first
    /// plan.
    pub fn new(read_back: &ReadBack, capacity: Capacity) -> ServiceTables {
        let mut tables = ServiceTables {
            live: BTreeMap::new(),
            services: Ids::default(),
            backends: Ids::default(),
            slots: SlotAllocator::new(capacity.slots),
            resting: [Vec::new(), Vec::new()],
            refused: BTreeSet::new(),
            strays: Vec::new(),
            capacity,
        };
        let mut backends = read_back.backends.clone();
        backends.sort_unstable_by_key(|(id, _)| *id);
        for (id, backend) in &backends {
            if !tables.backends.adopt(*id, backend) {
                tables.strays.push(*id);
            }
        }
        for (key, value) in &read_back.frontends {
            let live = tables.take_over(*value, read_back);
            tables.services.skip_to(value.service);
            tables.live.insert(*key, live);
        }
        tables
    }

    fn take_over(&mut self, value: Frontend, read_back: &ReadBack) -> Live {
        let mut live =
            Live { value, ids: Vec::new(), held: Vec::new(), owned: false, broken: true };
        let run = run_of(&value);
        let known = |id: &u32| self.backends.owner(*id).is_some();
        let ids = match read_back.slots.get(&run) {
            _ if run.len == 0 => Vec::new(),
            Some(ids) if ids.len() == run.len as usize && ids.iter().all(known) => ids.clone(),
            _ => return live,
        };
        if self.slots.reserve(run) {
            ids.iter().for_each(|id| self.backends.acquire(*id));
            live.ids = ids;
            live.broken = false;
        }
        live
    }

    /// Appends the ops that lead to the desired rows, of these keys or of all.
    pub(super) fn plan(
        &mut self,
        tables: &Tables,
        changed: Option<&BTreeSet<FrontendKey>>,
        plan: &mut Plan,
    ) {
        let mut draft = Draft::default();
        let retry = mem::take(&mut self.refused);
        match changed {
            Some(changed) => {
                for key in retry.union(changed) {
                    self.settle(key, tables.frontend(key), &mut draft);
                }
            }
            None => {
                self.adopt_service_ids(tables);
                for (key, row) in tables.frontends() {
                    self.settle(key, Some(row), &mut draft);
                }
                let gone = |key: &&FrontendKey| tables.frontend(key).is_none();
                for key in self.live.keys().filter(gone).copied().collect::<Vec<_>>() {
                    self.settle(&key, None, &mut draft);
                }
                draft.released_backends.extend(self.backends.ids());
            }
        }
        self.finish(draft, plan);
    }

    /// After a restart, a Service port keeps the id that stands at its frontend.
    fn adopt_service_ids(&mut self, tables: &Tables) {
        for (key, live) in &self.live {
            if let Some(row) = tables.frontend(key)
                && self.services.get(&row.service).is_none()
            {
                self.services.adopt(live.value.service, &row.service);
            }
        }
    }

    /// Brings one frontend to its desired row.
    fn settle(&mut self, key: &FrontendKey, row: Option<&FrontendRow>, draft: &mut Draft) {
        let live = self.live.remove(key);
        match (live, row) {
            (None, None) => {}
            (Some(live), None) => {
                draft.delete_frontends.push(Op::DeleteFrontend(*key));
                draft.freed.extend((!live.broken).then_some(run_of(&live.value)));
                self.release(live, draft);
            }
            (live, Some(row)) => {
                if let Some(live) = self.settle_row(*key, live, row, draft) {
                    self.live.insert(*key, live);
                }
            }
        }
    }

    /// The frontend as it stands afterwards.
    fn settle_row(
        &mut self,
        key: FrontendKey,
        live: Option<Live>,
        row: &FrontendRow,
        draft: &mut Draft,
    ) -> Option<Live> {
        let same = |live: &Live| {
            let held = live.ids.iter().map(|id| self.backends.owner(*id));
            !live.broken && held.eq(row.backends.iter().map(Some))
        };
        let (run, ids) = match &live {
            Some(live) if same(live) => (run_of(&live.value), live.ids.clone()),
            _ => match self.place(live.is_none(), row, draft) {
                Ok(placed) => placed,
                Err(error) => {
                    draft.refused.push(error);
                    self.refused.insert(key);
                    return live;
                }
            },
        };
        let service = self.services.get_or_insert(&row.service).0;
        let value =
            Frontend { service, slots_offset: run.offset, slots_len: run.len, flags: row.flags };
        // Idle backends that the kernel knows stay there; new ones need not be written.
        let held: Vec<u32> = row.idle.iter().filter_map(|b| self.backends.get(b)).collect();

        ids.iter().chain(&held).for_each(|id| self.backends.acquire(*id));
        self.services.acquire(service);
        let differs = live.as_ref().is_none_or(|l| l.broken || l.value != value);
        if differs {
            draft.put_frontends.push(Op::PutFrontend(key, value));
        }
        if let Some(live) = live {
            if !live.broken && run_of(&live.value) != run {
                draft.freed.push(run_of(&live.value));
            }
            self.release(live, draft);
        }
        Some(Live { value, ids, held, owned: true, broken: false })
    }

    /// Finds room for a row's backends and slots, and drafts writing them. Takes nothing if
    /// something does not fit.
    fn place(
        &mut self,
        new: bool,
        row: &FrontendRow,
        draft: &mut Draft,
    ) -> Result<(Run, Vec<u32>), CapacityError> {
        let service = || row.service.clone();
        // Deletions come last in a plan: what goes still takes up room.
        let max = self.capacity.frontends;
        if new && self.live.len() + draft.delete_frontends.len() >= max as usize {
            return Err(CapacityError::Frontends { service: service(), max });
        }
        let used = self.backends.len() + self.strays.len();
        let wanted = row.backends.iter().filter(|b| self.backends.get(b).is_none()).count();
        let max = self.capacity.backends;
        if used + wanted > max as usize {
            return Err(CapacityError::Backends { service: service(), wanted, used, max });
        }
        let max = self.capacity.slots;
        let len = u32::try_from(row.backends.len()).unwrap_or(u32::MAX);
        let run = self.slots.allocate(len).ok_or_else(|| CapacityError::Slots {
            service: service(),
            wanted: len,
            free: self.slots.available(),
            max,
        })?;
        let mut ids = Vec::with_capacity(row.backends.len());
        for backend in &row.backends {
            let (id, new) = self.backends.get_or_insert(backend);
            if new {
                draft.put_backends.push(Op::PutBackend(id, *backend));
            }
            ids.push(id);
        }
        if !ids.is_empty() {
            draft.write_slots.push((run.offset, ids.clone()));
        }
        Ok((run, ids))
    }

    /// Gives back the references of a frontend that was removed or replaced.
    fn release(&mut self, live: Live, draft: &mut Draft) {
        for id in live.ids.into_iter().chain(live.held) {
            if self.backends.release(id) {
                draft.released_backends.insert(id);
            }
        }
        if live.owned && self.services.release(live.value.service) {
            draft.released_services.insert(live.value.service);
        }
    }

    /// Puts the drafted ops in order and lets go of what nobody refers to.
    fn finish(&mut self, draft: Draft, plan: &mut Plan) {
        let Draft { put_backends, put_frontends, delete_frontends, .. } = draft;
        plan.ops.extend(put_backends);
        plan.ops.extend(joined(draft.write_slots));
        plan.ops.extend(put_frontends);
        plan.ops.extend(delete_frontends);
        for id in draft.released_backends {
            if let Some(backend) = self.backends.forget(id) {
                plan.ops.push(Op::DeleteBackend(id));
                if backend.proto == proto::UDP && self.backends.get(&backend).is_none() {
                    plan.stale_udp.push(backend);
                }
            }
        }
        plan.ops.extend(mem::take(&mut self.strays).into_iter().map(Op::DeleteBackend));
        plan.stale_udp.sort_unstable();
        plan.refused.extend(draft.refused);
        // A plan without ops takes no time: what rests goes on resting, unless it is waited for.
        if !plan.ops.is_empty() || !plan.refused.is_empty() {
            let last = mem::replace(&mut self.resting[0], draft.freed);
            let rested = mem::replace(&mut self.resting[1], last);
            rested.into_iter().for_each(|run| self.slots.free(run));
        }
        plan.room_to_come = self.resting.iter().any(|runs| !runs.is_empty());
        for id in draft.released_services {
            self.services.forget(id);
        }
    }
}

/// Neighbouring runs as one write.
fn joined(mut writes: Vec<(u32, Vec<u32>)>) -> impl Iterator<Item = Op> {
    writes.sort_unstable_by_key(|(offset, _)| *offset);
    let mut all: Vec<(u32, Vec<u32>)> = Vec::new();
    for (offset, ids) in writes {
        match all.last_mut() {
            Some((start, last)) if *start as usize + last.len() == offset as usize => {
                last.extend(ids);
            }
            _ => all.push((offset, ids)),
        }
    }
    all.into_iter().map(|(offset, ids)| Op::WriteSlots { offset, ids })
}
