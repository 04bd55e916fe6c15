//! What has to hold for any objects in any order.

mod kernel;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index as Pick;
use sluice_abi::{
    Backend, Frontend, FrontendKey, PortBe, WILDCARD_PORT, WILDCARD_PROTO, frontend_flags, proto,
};

use self::kernel::{Kernel, wanted};
use crate::diff::{Capacity, Op, Plan, Programmed, ReadBack};
use crate::generate::{self, THIS_NODE};
use crate::index::Index;
use crate::model::{Change, Object};
use crate::oracle::{self, Answer, Packet};
use crate::tables::{Changed, Surroundings, Tables};

const CAPACITY: Capacity =
    Capacity { frontends: 1000, slots: 4000, backends: 1000, networks: 1000 };

fn surroundings() -> Surroundings {
    Surroundings {
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

/// Rows without their history.
fn rows(tables: &Tables) -> String {
    let idle: Vec<_> = tables.frontends().map(|(_, row)| &row.idle).collect();
    format!("{}{idle:?}", crate::dump::tables(tables))
}

/// Carries out a plan and checks after each op that nobody met anything but the old or the new.
fn carry_out(kernel: &mut Kernel, ops: &[Op], desired: &Tables) {
    let (before, after) = (kernel.meaning(), wanted(desired));
    kernel.begin_plan();
    for op in ops {
        kernel.apply(op);
        let now = kernel.meaning();
        for key in before.keys().chain(after.keys()) {
            let met = now.get(key);
            assert!(met == before.get(key) || met == after.get(key), "{key:?} after {op:?}");
        }
    }
}

/// The kernel holds exactly what is desired, and nothing that nobody refers to (but idle backends,
/// whose flows stay).
fn assert_reached(kernel: &Kernel, tables: &Tables) {
    assert_eq!(kernel.meaning(), wanted(tables));
    assert_eq!(&kernel.networks, tables.networks());
    let idle: BTreeSet<Backend> = tables.frontends().flat_map(|(_, r)| r.idle.clone()).collect();
    let chosen: BTreeSet<Backend> =
        tables.frontends().flat_map(|(_, r)| r.backends.clone()).collect();
    let held: BTreeSet<Backend> = kernel.backends.values().copied().collect();
    assert!(held.is_superset(&chosen));
    assert!(held.difference(&chosen).all(|b| idle.contains(b)));
}

/// An agent over a kernel.
struct Agent {
    index: Index,
    tables: Tables,
    programmed: Programmed,
}

impl Agent {
    fn start(kernel: &Kernel) -> Agent {
        Agent {
            index: Index::new(THIS_NODE),
            tables: Tables::default(),
            programmed: Programmed::with_capacity(kernel.read_back(), kernel.capacity),
        }
    }

    fn take(&mut self, changes: &[Change]) -> Plan {
        changes.iter().for_each(|c| self.index.apply(c.clone()));
        let dirty = self.index.take_dirty();
        let changed = self.tables.update(&self.index, &dirty, &surroundings());
        self.programmed.plan(&self.tables, &changed)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn order_does_not_matter(
        world in generate::world(),
        order in vec((any::<Pick>(), any::<bool>()), 0..40),
    ) {
        let mut index = Index::new(THIS_NODE);
        let mut tables = Tables::default();
        let flush = |index: &mut Index, tables: &mut Tables| {
            let dirty = index.take_dirty();
            tables.update(index, &dirty, &surroundings());
        };
        // Some in any order and more than once, then all of them backwards.
        for (pick, flush_here) in order.iter().filter(|_| !world.is_empty()) {
            index.apply(Change::Apply(pick.get(&world).clone()));
            if *flush_here {
                flush(&mut index, &mut tables);
            }
        }
        world.iter().rev().for_each(|o| index.apply(Change::Apply(o.clone())));
        flush(&mut index, &mut tables);
        let full = Tables::full(&index_of(&world), &surroundings());
        prop_assert_eq!(rows(&tables), rows(&full));
    }

    #[test]
    fn incremental_equals_full(changes in vec(generate::change(), 1..25)) {
        let mut index = Index::new(THIS_NODE);
        let mut tables = Tables::full(&index, &surroundings());
        for change in changes {
            let before = tables.clone();
            index.apply(change);
            let dirty = index.take_dirty();
            let changed = tables.update(&index, &dirty, &surroundings());
            let full = Tables::full(&index, &surroundings());
            prop_assert_eq!(rows(&tables), rows(&full));
            // Whatever reads differently is named.
            let keys = before.frontends().chain(tables.frontends()).map(|(k, _)| *k);
            for key in keys.collect::<BTreeSet<_>>() {
                if before.frontend(&key) != tables.frontend(&key) {
                    prop_assert!(changed.frontends.contains(&key));
                }
            }
            prop_assert_eq!(changed.routes, before.routes() != tables.routes());
        }
    }

    #[test]
    fn diff_then_apply_reaches_desired(steps in steps()) {
        let mut kernel = Kernel::new(CAPACITY);
        let mut agent = Agent::start(&kernel);
        for changes in steps {
            let held = kernel.backends.values().copied().collect::<BTreeSet<_>>();
            let plan = agent.take(&changes);
            prop_assert!(plan.refused.is_empty());
            carry_out(&mut kernel, &plan.ops, &agent.tables);
            assert_reached(&kernel, &agent.tables);
            // Stale are the UDP backends that are gone, no more and no less.
            let now = kernel.backends.values().copied().collect::<BTreeSet<_>>();
            let gone = held.difference(&now).filter(|b| b.proto == proto::UDP);
            prop_assert_eq!(plan.stale_udp, gone.copied().collect::<Vec<_>>());
            let again = agent.programmed.plan(&agent.tables, &Changed::default());
            prop_assert!(again.ops.is_empty());
        }
    }

    #[test]
    fn apply_cut_short_then_rerun(
        steps in steps(),
        cuts in vec(any::<Pick>(), 12),
        restart in any::<bool>(),
    ) {
        let mut kernel = Kernel::new(CAPACITY);
        let mut agent = Agent::start(&kernel);
        for (changes, cut) in steps.into_iter().zip(cuts) {
            let plan = agent.take(&changes);
            let done = cut.index(plan.ops.len() + 1);
            carry_out(&mut kernel, &plan.ops[..done], &agent.tables);
            kernel.readers_leave();
            if restart {
                agent.programmed = Agent::start(&kernel).programmed;
            } else {
                agent.programmed.resync(kernel.read_back());
            }
            let plan = agent.take(&[]);
            carry_out(&mut kernel, &plan.ops, &agent.tables);
            assert_reached(&kernel, &agent.tables);
        }
    }

    #[test]
    fn restart_writes_nothing(steps in steps()) {
        let mut kernel = Kernel::new(CAPACITY);
        let mut agent = Agent::start(&kernel);
        for changes in steps {
            let plan = agent.take(&changes);
            plan.ops.iter().for_each(|op| kernel.apply(op));
        }
        let mut restarted = Agent::start(&kernel);
        let objects: Vec<Change> =
            objects_of(&agent.index).into_iter().map(Change::Apply).collect();
        let plan = restarted.take(&objects);
        prop_assert_eq!(plan.ops, vec![]);
        prop_assert_eq!(plan.stale_udp, vec![]);
    }

    #[test]
    fn rubbish_in_the_maps_is_put_right(
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
        let tables = Tables::full(&index_of(&world), &surroundings());
        let mut keys: Vec<FrontendKey> = tables.frontends().map(|(k, _)| *k).collect();
        keys.push(FrontendKey::default());
        for (pick, slots_offset, slots_len, service) in frontends {
            let value = Frontend { service, slots_offset, slots_len, ..Frontend::default() };
            kernel.frontends.insert(*pick.get(&keys), value);
        }
        let mut programmed = Programmed::with_capacity(kernel.read_back(), kernel.capacity);
        let plan = programmed.plan(&tables, &Changed::default());
        plan.ops.iter().for_each(|op| kernel.apply(op));
        if plan.refused.is_empty() {
            assert_reached(&kernel, &tables);
        }
    }

    #[test]
    fn what_does_not_fit_harms_nobody(
        steps in steps(),
        (frontends, slots, backends, networks) in (0..12u32, 0..16u32, 0..8u32, 0..6u32),
    ) {
        let mut kernel = Kernel::new(Capacity { frontends, slots, backends, networks });
        let mut agent = Agent::start(&kernel);
        let mut history: BTreeMap<FrontendKey, Vec<_>> = BTreeMap::new();
        for changes in steps {
            let plan = agent.take(&changes);
            for (key, meaning) in wanted(&agent.tables) {
                history.entry(key).or_default().push(meaning);
            }
            kernel.begin_plan();
            for op in &plan.ops {
                kernel.apply(op);
                // Each frontend reads as it was wanted at some time.
                for (key, meaning) in kernel.meaning() {
                    prop_assert!(history.get(&key).is_some_and(|h| h.contains(&meaning)));
                }
            }
            if plan.refused.is_empty() {
                assert_reached(&kernel, &agent.tables);
            }
        }
        // Retrying comes to an end.
        let mut retries = 0;
        while {
            let plan = agent.take(&[]);
            kernel.begin_plan();
            plan.ops.iter().for_each(|op| kernel.apply(op));
            plan.worth_retrying()
        } {
            retries += 1;
            prop_assert!(retries < 20);
        }
        // When nothing is wanted any more, all room is there again.
        let all = [crate::model::Kind::Node, crate::model::Kind::Service];
        let plan = agent.take(&all.map(|kind| Change::Replace(kind, vec![])));
        plan.ops.iter().for_each(|op| kernel.apply(op));
        prop_assert!(kernel.frontends.is_empty() && kernel.backends.is_empty());
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn compiled_agrees_with_oracle(world in generate::world()) {
        let tables = Tables::full(&index_of(&world), &surroundings());
        for dst in generate::service_addresses() {
            for protocol in [proto::TCP, proto::UDP, proto::SCTP, proto::ICMP] {
                for port in generate::PORTS.into_iter().chain([1]) {
                    let packet = Packet { dst, port, protocol };
                    let expect = oracle::answer(&world, THIS_NODE, packet);
                    prop_assert_eq!(look_up(&tables, packet), expect, "{:?}", packet);
                }
            }
        }
    }
}

/// What the programs do with the compiled rows.
fn look_up(tables: &Tables, packet: Packet) -> Answer {
    let exact = FrontendKey {
        addr: packet.dst.into(),
        port: PortBe::new(packet.port),
        proto: packet.protocol,
        pad: 0,
    };
    let wildcard = FrontendKey { port: WILDCARD_PORT, proto: WILDCARD_PROTO, ..exact };
    match tables.frontend(&exact).or_else(|| tables.frontend(&wildcard)) {
        None => Answer::NotAService,
        Some(row) if !row.backends.is_empty() => {
            Answer::Backends(row.backends.iter().map(|b| (b.addr.into(), b.port.get())).collect())
        }
        Some(row) if row.flags & frontend_flags::DROP != 0 => Answer::Dropped,
        Some(_) => Answer::Refused,
    }
}

#[test]
fn empty_maps_and_no_objects_need_no_writes() {
    let mut programmed = Programmed::new(ReadBack::default());
    let plan = programmed.plan(&Tables::default(), &Changed::default());
    assert!(plan.ops.is_empty());
}
