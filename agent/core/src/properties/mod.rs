//! Properties that hold for any objects and any order of changes.

pub mod kernel;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index as Pick;
use sluice_abi::{Backend, Frontend, FrontendKey, PortBe, proto};

use self::kernel::{Kernel, Row, desired_effect, rows};
use crate::cases::notation;
use crate::diff::{Capacity, Plan, ReadBack, RealizedState};
use crate::dump;
use crate::generate::{self, THIS_NODE};
use crate::index::Index;
use crate::model::{Change, Kind, NodeContext, Object};
use crate::oracle::{self, Packet};
use crate::tables::{Changed, Tables};

const CAPACITY: Capacity =
    Capacity { frontends: 1000, slots: 4000, backends: 1000, networks: 1000 };

fn context() -> NodeContext {
    NodeContext {
        local_addresses: vec![IpAddr::from([172, 18, 0, 2])],
        service_cidrs: crate::model::parse_cidr("10.96.0.0/16").into_iter().collect(),
    }
}

fn index_of(objects: &[Object]) -> Index {
    let mut index = Index::new(THIS_NODE);
    objects.iter().for_each(|o| index.apply(Change::Apply(o.clone())));
    index
}

/// Many objects at once, then a few changes at a time.
fn steps() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let few = vec(vec(generate::change(), 0..4), 0..11);
    (generate::world(), few).prop_map(|(world, mut steps)| {
        steps.insert(0, world.into_iter().map(Change::Apply).collect());
        steps
    })
}

/// All objects of an index, as a list.
fn objects_of(index: &Index) -> Vec<Object> {
    let nodes = index.nodes().cloned().map(Object::Node);
    let services = index.services().cloned().map(Object::Service);
    let slices = index.slices().cloned().map(Object::EndpointSlice);
    nodes.chain(services).chain(slices).collect()
}

/// Carries out rows of a plan. After each row, every frontend has its old or its new effect.
fn carry_out(kernel: &mut Kernel, rows: &[Row<'_>], desired: &Tables) {
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
}

/// The state of an agent.
struct Agent {
    index: Index,
    tables: Tables,
    realized: RealizedState,
}

impl Agent {
    fn start(kernel: &Kernel) -> Agent {
        Agent {
            index: Index::new(THIS_NODE),
            tables: Tables::default(),
            realized: RealizedState::with_capacity(kernel.read_back(), kernel.capacity),
        }
    }

    fn take(&mut self, changes: &[Change]) -> Plan {
        changes.iter().for_each(|c| self.index.apply(c.clone()));
        let dirty = self.index.take_dirty();
        let changed = self.tables.update(&self.index, &dirty, &context());
        self.realized.plan(&self.tables, &changed)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn compiled_rows_do_not_depend_on_the_order_of_changes(
        world in generate::world(),
        order in vec((any::<Pick>(), any::<bool>()), 0..40),
    ) {
        let mut index = Index::new(THIS_NODE);
        let mut tables = Tables::default();
        let flush = |index: &mut Index, tables: &mut Tables| {
            let dirty = index.take_dirty();
            tables.update(index, &dirty, &context());
        };
        // Some in any order and repeatedly, then all in reverse order.
        for (pick, flush_here) in order.iter().filter(|_| !world.is_empty()) {
            index.apply(Change::Apply(pick.get(&world).clone()));
            if *flush_here {
                flush(&mut index, &mut tables);
            }
        }
        world.iter().rev().for_each(|o| index.apply(Change::Apply(o.clone())));
        flush(&mut index, &mut tables);
        let full = Tables::full(&index_of(&world), &context());
        prop_assert_eq!(dump::tables(&tables), dump::tables(&full));
    }

    #[test]
    fn incremental_update_equals_full_compilation(changes in vec(generate::change(), 1..25)) {
        let mut index = Index::new(THIS_NODE);
        let mut tables = Tables::full(&index, &context());
        for change in changes {
            let before = tables.clone();
            index.apply(change);
            let dirty = index.take_dirty();
            let changed = tables.update(&index, &dirty, &context());
            let full = Tables::full(&index, &context());
            prop_assert_eq!(dump::tables(&tables), dump::tables(&full));
            // Every difference is reported.
            let keys = before.frontends().chain(tables.frontends()).map(|(k, _)| *k);
            for key in keys.collect::<BTreeSet<_>>() {
                if before.frontend(&key) != tables.frontend(&key) {
                    prop_assert!(changed.frontends.contains(&key));
                }
            }
            prop_assert_eq!(changed.networks, before.networks() != tables.networks());
            prop_assert_eq!(changed.routes, before.routes() != tables.routes());
        }
    }

    #[test]
    fn plan_leads_to_the_desired_rows(steps in steps()) {
        let mut kernel = Kernel::new(CAPACITY);
        let mut agent = Agent::start(&kernel);
        for changes in steps {
            let held = kernel.backends.values().copied().collect::<BTreeSet<_>>();
            let plan = agent.take(&changes);
            prop_assert!(plan.over_capacity.is_empty());
            carry_out(&mut kernel, &rows(&plan.writes), &agent.tables);
            assert_realized(&kernel, &agent.tables);
            // Stale backends are exactly the removed UDP backends.
            let now = kernel.backends.values().copied().collect::<BTreeSet<_>>();
            let gone = held.difference(&now).filter(|b| b.proto == proto::UDP);
            prop_assert_eq!(plan.stale_udp, gone.copied().collect::<Vec<_>>());
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
            let plan = agent.take(&changes);
            let done = cut.index(plan.rows() + 1);
            carry_out(&mut kernel, &rows(&plan.writes)[..done], &agent.tables);
            if restart {
                kernel.agent_restarts();
                agent.realized = Agent::start(&kernel).realized;
            } else {
                agent.realized.resync(kernel.read_back());
            }
            let plan = agent.take(&[]);
            carry_out(&mut kernel, &rows(&plan.writes), &agent.tables);
            assert_realized(&kernel, &agent.tables);
        }
    }

    #[test]
    fn restart_without_changes_writes_nothing(steps in steps()) {
        let mut kernel = Kernel::new(CAPACITY);
        let mut agent = Agent::start(&kernel);
        for changes in steps {
            let plan = agent.take(&changes);
            rows(&plan.writes).into_iter().for_each(|row| kernel.apply(row));
        }
        let mut restarted = Agent::start(&kernel);
        let objects: Vec<Change> =
            objects_of(&agent.index).into_iter().map(Change::Apply).collect();
        let plan = restarted.take(&objects);
        prop_assert_eq!(plan.writes, vec![]);
        prop_assert_eq!(plan.stale_udp, vec![]);
    }

    #[test]
    fn damaged_maps_are_repaired(
        world in generate::world(),
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
        let tables = Tables::full(&index_of(&world), &context());
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
            let plan = agent.take(&changes);
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
            let plan = agent.take(&[]);
            begin(&mut kernel, &plan);
            rows(&plan.writes).into_iter().for_each(|row| kernel.apply(row));
            plan.worth_retrying()
        } {
            retries += 1;
            prop_assert!(retries < 20);
        }
        // When no row is desired, the maps are empty.
        let all = [Kind::Node, Kind::Service];
        let plan = agent.take(&all.map(|kind| Change::Replace(kind, vec![])));
        rows(&plan.writes).into_iter().for_each(|row| kernel.apply(row));
        prop_assert!(kernel.frontends.is_empty() && kernel.backends.is_empty());
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn compiled_services_agree_with_oracle(world in generate::world()) {
        let tables = Tables::full(&index_of(&world), &context());
        for dst in generate::service_addresses() {
            for protocol in [proto::TCP, proto::UDP, proto::SCTP, proto::ICMP] {
                for port in generate::PORTS.into_iter().chain([1]) {
                    let packet = Packet { dst, port, protocol };
                    let expect = oracle::answer(&world, THIS_NODE, packet);
                    prop_assert_eq!(verdict::service(&tables, packet), expect, "{:?}", packet);
                    let kept = verdict::kept_by_udp_flows(&tables, packet);
                    let usable = oracle::usable_endpoints(&world, packet);
                    prop_assert!(protocol != proto::UDP || kept == usable, "{:?}", packet);
                }
            }
        }
    }

    #[test]
    fn compiled_networks_agree_with_oracle(
        world in generate::world(),
        context in generate::node_context(),
    ) {
        let index = index_of(&world);
        let tables = Tables::full(&index, &context);
        for address in generate::destinations() {
            let expect = oracle::network(&world, THIS_NODE, &context, address);
            prop_assert_eq!(verdict::network(&tables, address), expect, "{}", address);
            let own = index.this_node().map(|n| n.pod_cidrs.clone()).unwrap_or_default();
            let expect = oracle::route(&world, THIS_NODE, address);
            prop_assert_eq!(verdict::route(&tables, &own, address), expect, "{}", address);
        }
    }
}

/// A Service whose only endpoint changes with every plan: each plan frees a slot and a backend id
/// and needs new ones.
#[test]
fn slots_and_ids_are_reused_by_the_third_plan_at_the_earliest() {
    let slice = |host: u8| {
        let text = format!("slice shop/web-a of=web ports=/TCP:80 10.244.1.{host}@n1");
        notation::change(&text).expect("slice")
    };
    let service = notation::change("service shop/web 10.96.0.7 /TCP:80").expect("service");
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    let plan = agent.take(&[service]);
    carry_out(&mut kernel, &rows(&plan.writes), &agent.tables);
    let mut offsets = Vec::new();
    for host in 1..=8 {
        let plan = agent.take(&[slice(host)]);
        carry_out(&mut kernel, &rows(&plan.writes), &agent.tables);
        offsets
            .extend(kernel.frontends.values().filter(|f| f.slots_len > 0).map(|f| f.slots_offset));
    }
    assert_eq!(offsets, [0, 1, 2, 3, 0, 1, 2, 3]);
}

#[test]
fn no_objects_and_empty_maps_need_no_writes() {
    let mut realized = RealizedState::new(ReadBack::default());
    let plan = realized.plan(&Tables::default(), &Changed::default());
    assert!(plan.writes.is_empty());
}
