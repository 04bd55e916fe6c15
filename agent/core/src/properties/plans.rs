//! Plans: carried out on a model of the maps, whole, interrupted or after a restart.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index as Pick;
use sluice_abi::{
    Backend, BackendRow, Frontend, FrontendKey, PortBe, ServicePort, SlotRange, SourceRangeKey,
    proto,
};

use super::kernel::{Fate, Kernel, Row, desired_effect, rows};
use super::{cases, context, index_of};
use crate::compile::{PortRow, ServicePortId, Treatment};
use crate::diff::{Capacity, Plan, RealizedState};
use crate::generate::{self, THIS_NODE};
use crate::index::Index;
use crate::model::{Change, Kind, Object, Service, TrafficPolicy};
use crate::tables::{Changed, Tables};

pub const CAPACITY: Capacity = Capacity {
    frontends: 1000,
    services: 1000,
    source_ranges: 1000,
    slots: 4000,
    backends: 1000,
    networks: 1000,
    ..Capacity::NONE
};

/// Many objects at once, then a few changes at a time: of any object, or of the traffic policy of a
/// Service.
pub fn steps() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let change = (generate::change(), option::weighted(0.4, any::<Pick>()));
    let few = vec(vec(change, 0..4), 0..11);
    (generate::objects(), few).prop_map(|(objects, steps)| {
        let mut services: Vec<Service> = Vec::new();
        services.extend(objects.iter().filter_map(|o| match o {
            Object::Service(service) => Some(service.clone()),
            _ => None,
        }));
        let steps: Vec<Vec<Change>> = steps
            .into_iter()
            .map(|changes| {
                let changes = changes.into_iter().map(|(change, pick)| match pick {
                    Some(pick) if !services.is_empty() => {
                        let at = pick.index(services.len());
                        let policy = &mut services[at].internal_traffic_policy;
                        *policy = match policy {
                            TrafficPolicy::Cluster => TrafficPolicy::Local,
                            TrafficPolicy::Local => TrafficPolicy::Cluster,
                        };
                        Change::Apply(Object::Service(services[at].clone()))
                    }
                    _ => change,
                });
                changes.collect()
            })
            .collect();
        let first = objects.into_iter().map(Change::Apply).collect();
        [vec![first], steps].concat()
    })
}

/// All objects of an index, as a list.
fn objects_of(index: &Index) -> Vec<Object> {
    let nodes = index.nodes().cloned().map(Object::Node);
    let services = index.services().cloned().map(Object::Service);
    let slices = index.slices().map(Object::EndpointSlice);
    let cidrs = index.service_cidrs().cloned().map(Object::ServiceCidr);
    let pods = index.pods().cloned().map(Object::Pod);
    nodes.chain(services).chain(slices).chain(cidrs).chain(pods).collect()
}

/// Carries out the first rows of a plan. After each row, every frontend has its old or its new
/// effect. A frontend that the plan changes or deletes may have the new sets of its Service port
/// before, for each kind of client; one that was rejected and leaves the policy Local may be dropped.
pub fn carry_out(kernel: &mut Kernel, rows: &[Row<'_>], done: usize, desired: &Tables) {
    let (before, after) = (kernel.effect(), desired_effect(desired));
    let frontends = kernel.frontends.clone();
    if !rows.is_empty() {
        kernel.begin_plan();
    }
    let mut end = kernel.clone();
    rows.iter().for_each(|row| end.apply(*row));
    let sets = fates(desired);
    for row in &rows[..done] {
        kernel.apply(*row);
        kernel.require_source_ranges();
        let now = kernel.effect();
        for key in before.keys().chain(after.keys()) {
            let effect = now.get(key);
            if effect == before.get(key) || effect == after.get(key) {
                continue;
            }
            let old = frontends.get(key);
            let was = |at: usize| before.get(key).map(|fates| &fates[at]);
            let known = |(at, fate): (usize, &Fate)| {
                let appeared = *fate == Fate::Drop && was(at) == Some(&Fate::Reject);
                appeared || was(at) == Some(fate) || sets.contains(fate)
            };
            let is_old = kernel.frontends.get(key) == old && end.frontends.get(key) != old;
            assert!(
                is_old && effect.is_some_and(|fates| fates.iter().enumerate().all(known)),
                "{key:?} has neither effect after {row:?}: {effect:?}, before {:?}, desired {:?}",
                before.get(key),
                after.get(key),
            );
        }
    }
}

/// What happens to connections by the sets of all Service ports.
fn fates(tables: &Tables) -> Vec<Fate> {
    let ports = tables.ports().flat_map(|port| {
        [Some(port.treatment(false)), port.local.as_ref().map(|_| port.treatment(true))]
    });
    ports.flatten().map(Fate::from).collect()
}

/// Begins a plan that takes time: one that writes something, or that waits for capacity.
pub fn begin(kernel: &mut Kernel, plan: &Plan) {
    if !plan.writes.is_empty() || !plan.over_capacity.is_empty() {
        kernel.begin_plan();
    }
}

/// The kernel holds exactly the desired rows, and no other backends than those and the unselected
/// ones that existing flows keep.
pub fn assert_realized(kernel: &Kernel, tables: &Tables) {
    assert_eq!(kernel.effect(), desired_effect(tables));
    assert_eq!(&kernel.networks, tables.networks());
    let of = |sets: fn(&PortRow) -> Vec<Backend>| -> BTreeSet<Backend> {
        tables.ports().flat_map(sets).collect()
    };
    let unselected = of(|port| port.unselected.to_vec());
    let selected =
        of(|port| port.cluster.iter().chain(port.local.iter().flatten()).copied().collect());
    let held: BTreeSet<Backend> = kernel.backends.values().map(BackendRow::backend).collect();
    assert!(held.is_superset(&selected));
    assert!(held.difference(&selected).all(|b| unselected.contains(b)));
    assert_ids_of_one_service_port(kernel, tables);
    assert_source_ranges(kernel, tables);
}

/// Each Service port has its source ranges, and no other rows exist.
fn assert_source_ranges(kernel: &Kernel, tables: &Tables) {
    let mut expected: BTreeSet<SourceRangeKey> = BTreeSet::new();
    for (key, frontend) in tables.frontends() {
        let service = kernel.frontends[key].service;
        for range in frontend.port.iter().flat_map(|port| port.source_ranges.iter()) {
            let prefix_len = u32::from(range.prefix_len());
            let prefix_len = if range.addr().is_ipv4() { 96 + prefix_len } else { prefix_len } + 32;
            expected.insert(SourceRangeKey { prefix_len, service, addr: range.network().into() });
        }
    }
    assert!(kernel.source_ranges.keys().eq(&expected), "{:?}", kernel.source_ranges);
}

/// No two Service ports share a backend id or a row, and a Service port has one id per endpoint.
fn assert_ids_of_one_service_port(kernel: &Kernel, tables: &Tables) {
    let mut owners: BTreeMap<u32, &ServicePortId> = BTreeMap::new();
    let mut services: BTreeMap<u32, &ServicePortId> = BTreeMap::new();
    let mut ids: BTreeMap<(&ServicePortId, Backend), u32> = BTreeMap::new();
    for (key, frontend) in tables.frontends() {
        let Some(port) = frontend.port else { continue };
        let value = kernel.frontends[key];
        assert_eq!(*services.entry(value.service).or_insert(&port.id), &port.id);
        let row = kernel.services[&value.service];
        assert_eq!(row.affinity_seconds, port.affinity_seconds);
        for range in [row.cluster, row.local] {
            for id in kernel.slots.iter().skip(range.offset as usize).take(range.len as usize) {
                let owner = owners.entry(*id).or_insert(&port.id);
                assert_eq!(*owner, &port.id, "backend {id} of {key:?}");
                let row = kernel.backends[id];
                // Rows of another version name no Service port while they are selected.
                assert!([0, value.service].contains(&row.service), "backend {id} of {key:?}");
                let known = ids.entry((&port.id, row.backend())).or_insert(*id);
                assert_eq!(known, id, "two ids of one backend of {key:?}");
            }
        }
    }
    assert_eq!(kernel.services.len(), services.len(), "a Service port without frontend is left");
}

/// The backends that existing flows have, by frontend and the Service port that it belongs to.
type Flows = BTreeMap<(FrontendKey, ServicePortId), BTreeSet<Backend>>;

/// The backends of `flows` that are still usable, and the selected ones. A flow whose frontend now belongs
/// to another Service port does not keep its backend: that is a backend of the former one.
fn flows_after(mut flows: Flows, tables: &Tables) -> Flows {
    let after = tables.frontends().filter_map(|(key, frontend)| {
        let port = frontend.port?;
        let flow = (*key, port.id.clone());
        let mut backends = flows.remove(&flow).unwrap_or_default();
        backends.retain(|b| port.usable().any(|usable| usable == b));
        for here in [true, false] {
            if let Treatment::Forward(selected) = frontend.treatment(here) {
                backends.extend(selected);
            }
        }
        Some((flow, backends))
    });
    after.collect()
}

/// The state of an agent.
pub struct Agent {
    pub index: Index,
    pub tables: Tables,
    pub realized: RealizedState,
}

impl Agent {
    /// Starts from the rows in the maps.
    pub fn start(kernel: &Kernel) -> Agent {
        let mut index = Index::new(THIS_NODE);
        index.apply(Change::Replace(Kind::ServiceCidr, vec![]));
        Agent {
            index,
            tables: Tables::default(),
            realized: RealizedState::with_capacity(kernel.read_back(), kernel.capacity),
        }
    }

    /// Applies changes and plans.
    pub fn apply_and_plan(&mut self, changes: &[Change]) -> Plan {
        changes.iter().for_each(|c| self.index.apply(c.clone()));
        let dirty = self.index.take_dirty();
        let changed = self.tables.update(&self.index, &dirty, &context());
        self.realized.plan(&self.tables, &changed)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(256), failure_persistence: None, ..Default::default() })]

    #[test]
    fn plan_leads_to_the_desired_rows(steps in steps()) {
        let mut kernel = Kernel::new(CAPACITY);
        let mut agent = Agent::start(&kernel);
        let mut flows = Flows::new();
        for changes in steps {
            let held = kernel.backends.clone();
            let plan = agent.apply_and_plan(&changes);
            prop_assert!(plan.over_capacity.is_empty());
            let rows = rows(&plan.writes);
            carry_out(&mut kernel, &rows, rows.len(), &agent.tables);
            assert_realized(&kernel, &agent.tables);
            // Stale backends are exactly the removed UDP backends.
            let now = kernel.backends.values().map(BackendRow::backend).collect::<BTreeSet<_>>();
            // A flow keeps its backend while that is selected or unselected.
            flows = flows_after(flows, &agent.tables);
            prop_assert!(flows.values().flatten().all(|backend| now.contains(backend)));
            let removed = held.iter().filter(|(id, _)| !kernel.backends.contains_key(id));
            let removed: BTreeSet<(u32, Backend)> =
                removed.filter(|(_, b)| b.proto == proto::UDP).map(|(id, b)| (*id, b.backend())).collect();
            let stale = plan.stale_udp.iter().map(|s| (s.id, s.backend)).collect();
            prop_assert_eq!(removed, stale);
            let again = agent.realized.plan(&agent.tables, &Changed::default());
            prop_assert!(again.writes.is_empty());
        }
    }

    #[test]
    fn plan_after_a_failed_write_leads_to_the_desired_rows(
        steps in steps(),
        cuts in vec(any::<Pick>(), 12),
        restart in any::<bool>(),
    ) {
        let mut kernel = Kernel::new(CAPACITY);
        let mut agent = Agent::start(&kernel);
        for (changes, cut) in steps.into_iter().zip(cuts) {
            let plan = agent.apply_and_plan(&changes);
            let done = cut.index(plan.rows() + 1);
            carry_out(&mut kernel, &rows(&plan.writes), done, &agent.tables);
            if restart {
                kernel.agent_restarts();
                agent.realized = Agent::start(&kernel).realized;
            } else {
                agent.realized.resync(kernel.read_back());
            }
            let plan = agent.apply_and_plan(&[]);
            let rows = rows(&plan.writes);
            carry_out(&mut kernel, &rows, rows.len(), &agent.tables);
            assert_realized(&kernel, &agent.tables);
        }
    }

    #[test]
    fn contract_5_5_restart_without_changes_writes_nothing(steps in steps()) {
        let mut kernel = Kernel::new(CAPACITY);
        let mut agent = Agent::start(&kernel);
        for changes in steps {
            let plan = agent.apply_and_plan(&changes);
            rows(&plan.writes).into_iter().for_each(|row| kernel.apply(row));
        }
        let mut restarted = Agent::start(&kernel);
        let objects: Vec<Change> =
            objects_of(&agent.index).into_iter().map(Change::Apply).collect();
        let plan = restarted.apply_and_plan(&objects);
        prop_assert_eq!(plan.writes, vec![]);
        prop_assert_eq!(plan.stale_udp, vec![]);
    }

    #[test]
    fn damaged_maps_are_repaired(
        objects in generate::objects(),
        backends in vec((0..6u32, any::<[u8; 20]>()), 0..6),
        slots in vec(0..8u32, 40),
        services in vec((0..6u32, 0..60u32, 0..6u32, 0..60u32, 0..3u32), 0..6),
        frontends in vec((any::<Pick>(), 0..8u32, 0..8u32), 0..8),
    ) {
        let mut kernel = Kernel::new(Capacity { slots: 40, ..CAPACITY });
        kernel.slots = slots;
        for (id, b) in backends {
            let backend = BackendRow {
                addr: sluice_abi::Addr::v4([10, 244, 1, b[0] % 4]),
                port: PortBe::new(80),
                proto: b[1],
                pad: b[2],
                service: u32::from(b[3] % 4),
            };
            kernel.backends.insert(id, backend);
        }
        let tables = Tables::full(&index_of(&objects), &context());
        let mut keys: Vec<FrontendKey> = tables.frontends().map(|(k, _)| *k).collect();
        keys.push(FrontendKey::default());
        for (id, offset, len, local_offset, local_len) in services {
            let cluster = SlotRange { offset, len };
            let local = SlotRange { offset: local_offset, len: local_len };
            kernel.services.insert(id, ServicePort { cluster, local, affinity_seconds: 0 });
        }
        for (pick, service, flags) in frontends {
            kernel.frontends.insert(*pick.get(&keys), Frontend { service, flags });
        }
        let mut realized = RealizedState::with_capacity(kernel.read_back(), kernel.capacity);
        let plan = realized.plan(&tables, &Changed::default());
        rows(&plan.writes).into_iter().for_each(|row| kernel.apply(row));
        if plan.over_capacity.is_empty() {
            assert_realized(&kernel, &tables);
        }
    }

    #[test]
    fn rows_beyond_capacity_leave_others_intact(
        steps in steps(),
        (frontends, slots, backends, networks) in (0..12u32, 0..16u32, 0..8u32, 0..6u32),
        (services, source_ranges) in (0..6u32, 0..4u32),
    ) {
        let mut kernel = Kernel::new(Capacity {
            frontends, services, source_ranges, slots, backends, networks, ..Capacity::NONE
        });
        let mut agent = Agent::start(&kernel);
        let mut history: BTreeMap<FrontendKey, Vec<[Fate; 2]>> = BTreeMap::new();
        let mut sets: Vec<Fate> = Vec::new();
        for changes in steps {
            let plan = agent.apply_and_plan(&changes);
            sets.extend(fates(&agent.tables));
            for (key, effect) in desired_effect(&agent.tables) {
                history.entry(key).or_default().push(effect);
            }
            begin(&mut kernel, &plan);
            for row in rows(&plan.writes) {
                kernel.apply(row);
                // Each frontend has an effect that was desired at some time, or, if it could not be
                // replaced, what its former Service port has.
                for (key, effect) in kernel.effect() {
                    let known = history.get(&key).is_some_and(|h| h.contains(&effect));
                    let of_former = |fate: &Fate| *fate == Fate::Drop || sets.contains(fate);
                    prop_assert!(known || effect.iter().all(of_former));
                }
            }
            kernel.require_limits(&agent.tables);
            if plan.over_capacity.is_empty() {
                assert_realized(&kernel, &agent.tables);
            }
        }
        // Retries end.
        let mut retries = 0;
        while {
            let plan = agent.apply_and_plan(&[]);
            begin(&mut kernel, &plan);
            rows(&plan.writes).into_iter().for_each(|row| kernel.apply(row));
            plan.worth_retrying()
        } {
            retries += 1;
            prop_assert!(retries < 20);
        }
        // When no row is desired, the maps are empty.
        let all = [Kind::Node, Kind::Service];
        let plan = agent.apply_and_plan(&all.map(|kind| Change::Replace(kind, vec![])));
        rows(&plan.writes).into_iter().for_each(|row| kernel.apply(row));
        prop_assert!(kernel.frontends.is_empty() && kernel.services.is_empty());
        prop_assert!(kernel.backends.is_empty() && kernel.source_ranges.is_empty());
    }
}
