//! Plans: carried out on a model of the maps, whole, interrupted or after a restart.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index as Pick;
use sluice_abi::{Backend, Frontend, FrontendKey, PortBe, proto};

use super::kernel::{Kernel, Row, desired_effect, rows};
use super::{context, index_of};
use crate::compile::ServicePortId;
use crate::diff::{Capacity, Plan, RealizedState};
use crate::generate::{self, THIS_NODE};
use crate::index::Index;
use crate::model::{Change, Kind, Object};
use crate::tables::{Changed, Tables};

pub const CAPACITY: Capacity =
    Capacity { frontends: 1000, slots: 4000, backends: 1000, networks: 1000 };

/// Many objects at once, then a few changes at a time.
pub fn steps() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let few = vec(vec(generate::change(), 0..4), 0..11);
    (generate::objects(), few).prop_map(|(objects, mut steps)| {
        steps.insert(0, objects.into_iter().map(Change::Apply).collect());
        steps
    })
}

/// All objects of an index, as a list.
fn objects_of(index: &Index) -> Vec<Object> {
    let nodes = index.nodes().cloned().map(Object::Node);
    let services = index.services().cloned().map(Object::Service);
    let slices = index.slices().cloned().map(Object::EndpointSlice);
    let cidrs = index.service_cidrs().cloned().map(Object::ServiceCidr);
    nodes.chain(services).chain(slices).chain(cidrs).collect()
}

/// Carries out rows of a plan. After each row, every frontend has its old or its new effect.
pub fn carry_out(kernel: &mut Kernel, rows: &[Row<'_>], desired: &Tables) {
    let (before, after) = (kernel.effect(), desired_effect(desired));
    if !rows.is_empty() {
        kernel.begin_plan();
    }
    for row in rows {
        kernel.apply(*row);
        let now = kernel.effect();
        for key in before.keys().chain(after.keys()) {
            let effect = now.get(key);
            assert!(
                effect == before.get(key) || effect == after.get(key),
                "{key:?} has neither effect after {row:?}"
            );
        }
    }
}

/// Begins a plan that takes time: one that writes something, or that waits for capacity.
fn begin(kernel: &mut Kernel, plan: &Plan) {
    if !plan.writes.is_empty() || !plan.over_capacity.is_empty() {
        kernel.begin_plan();
    }
}

/// The kernel holds exactly the desired rows, and no other backends than those and the unselected
/// ones that existing flows keep.
fn assert_realized(kernel: &Kernel, tables: &Tables) {
    assert_eq!(kernel.effect(), desired_effect(tables));
    assert_eq!(&kernel.networks, tables.networks());
    let rows = || tables.frontends().map(|(_, row)| row);
    let unselected: BTreeSet<Backend> = rows().flat_map(|r| r.unselected.clone()).collect();
    let selected: BTreeSet<Backend> = rows().flat_map(|r| r.backends.clone()).collect();
    let held: BTreeSet<Backend> = kernel.backends.values().copied().collect();
    assert!(held.is_superset(&selected));
    assert!(held.difference(&selected).all(|b| unselected.contains(b)));
    assert_ids_of_one_service_port(kernel, tables);
}

/// No two Service ports share a backend id, and a Service port has one id per endpoint.
fn assert_ids_of_one_service_port(kernel: &Kernel, tables: &Tables) {
    let mut owners: BTreeMap<u32, &ServicePortId> = BTreeMap::new();
    let mut ids: BTreeMap<(&ServicePortId, Backend), u32> = BTreeMap::new();
    for (key, row) in tables.frontends() {
        let frontend = kernel.frontends[key];
        let start = frontend.slots_offset as usize;
        for id in kernel.slots.iter().skip(start).take(frontend.slots_len as usize) {
            let owner = owners.entry(*id).or_insert(&row.service);
            assert_eq!(*owner, &row.service, "backend {id} of {key:?}");
            let known = ids.entry((&row.service, kernel.backends[id])).or_insert(*id);
            assert_eq!(known, id, "two ids of one backend of {key:?}");
        }
    }
}

/// The backends that existing flows of each frontend have: of these, the ones that are still usable,
/// and the selected ones.
fn flows_after(
    mut flows: BTreeMap<FrontendKey, BTreeSet<Backend>>,
    tables: &Tables,
) -> BTreeMap<FrontendKey, BTreeSet<Backend>> {
    let after = tables.frontends().map(|(key, row)| {
        let mut backends = flows.remove(key).unwrap_or_default();
        backends.retain(|b| row.unselected.contains(b));
        backends.extend(&row.backends);
        (*key, backends)
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
        Agent {
            index: Index::new(THIS_NODE),
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
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn plan_leads_to_the_desired_rows(steps in steps()) {
        let mut kernel = Kernel::new(CAPACITY);
        let mut agent = Agent::start(&kernel);
        let mut flows = BTreeMap::new();
        for changes in steps {
            let held = kernel.backends.clone();
            let plan = agent.apply_and_plan(&changes);
            prop_assert!(plan.over_capacity.is_empty());
            carry_out(&mut kernel, &rows(&plan.writes), &agent.tables);
            assert_realized(&kernel, &agent.tables);
            // Stale backends are exactly the removed UDP backends.
            let now = kernel.backends.values().copied().collect::<BTreeSet<_>>();
            // A flow keeps its backend while that is selected or unselected.
            flows = flows_after(flows, &agent.tables);
            prop_assert!(flows.values().flatten().all(|backend| now.contains(backend)));
            let removed = held.iter().filter(|(id, _)| !kernel.backends.contains_key(id));
            let removed: BTreeSet<(u32, Backend)> =
                removed.filter(|(_, b)| b.proto == proto::UDP).map(|(id, b)| (*id, *b)).collect();
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
            carry_out(&mut kernel, &rows(&plan.writes)[..done], &agent.tables);
            if restart {
                kernel.agent_restarts();
                agent.realized = Agent::start(&kernel).realized;
            } else {
                agent.realized.resync(kernel.read_back());
            }
            let plan = agent.apply_and_plan(&[]);
            carry_out(&mut kernel, &rows(&plan.writes), &agent.tables);
            assert_realized(&kernel, &agent.tables);
        }
    }

    #[test]
    fn restart_without_changes_writes_nothing(steps in steps()) {
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
        frontends in vec((any::<Pick>(), 0..60u32, 0..6u32, 0..4u32), 0..8),
    ) {
        let mut kernel = Kernel::new(Capacity { slots: 40, ..CAPACITY });
        kernel.slots = slots;
        for (id, b) in backends {
            let backend = Backend {
                addr: sluice_abi::Addr::v4([10, 244, 1, b[0] % 4]),
                port: PortBe::new(80),
                proto: b[1],
                pad: b[2],
            };
            kernel.backends.insert(id, backend);
        }
        let tables = Tables::full(&index_of(&objects), &context());
        let mut keys: Vec<FrontendKey> = tables.frontends().map(|(k, _)| *k).collect();
        keys.push(FrontendKey::default());
        for (pick, slots_offset, slots_len, service) in frontends {
            let value = Frontend { service, slots_offset, slots_len, ..Frontend::default() };
            kernel.frontends.insert(*pick.get(&keys), value);
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
    ) {
        let mut kernel = Kernel::new(Capacity { frontends, slots, backends, networks });
        let mut agent = Agent::start(&kernel);
        let mut history: BTreeMap<FrontendKey, Vec<(u32, Vec<Backend>)>> = BTreeMap::new();
        for changes in steps {
            let plan = agent.apply_and_plan(&changes);
            for (key, effect) in desired_effect(&agent.tables) {
                history.entry(key).or_default().push(effect);
            }
            begin(&mut kernel, &plan);
            for row in rows(&plan.writes) {
                kernel.apply(row);
                // Each frontend has an effect that was desired at some time.
                for (key, effect) in kernel.effect() {
                    prop_assert!(history.get(&key).is_some_and(|h| h.contains(&effect)));
                }
            }
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
        prop_assert!(kernel.frontends.is_empty() && kernel.backends.is_empty());
    }
}
