//! Compiled tables: independent of the order of changes, and equal to the oracle.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index as Pick;
use sluice_abi::{FrontendKey, proto};

use super::{cases, context, index_of, packets, verdict};
use crate::compile::PortRow;
use crate::dump;
use crate::generate::{self, THIS_NODE};
use crate::index::Index;
use crate::model::{Change, NodeContext, ObjectName};
use crate::oracle::{self, World};
use crate::tables::{Tables, WithoutLocal};

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(256), failure_persistence: None, ..Default::default() })]

    #[test]
    fn compiled_rows_do_not_depend_on_the_order_of_changes(
        (objects, pods) in (generate::objects(), generate::pods()),
        order in vec((any::<Pick>(), any::<bool>()), 0..40),
    ) {
        let objects = [objects, pods].concat();
        let mut index = Index::new(THIS_NODE);
        let mut tables = Tables::default();
        let flush = |index: &mut Index, tables: &mut Tables| {
            let dirty = index.take_dirty();
            tables.update(index, &dirty, &context());
        };
        // Some in any order and repeatedly, then all in reverse order.
        for (pick, flush_here) in order.iter().filter(|_| !objects.is_empty()) {
            index.apply(Change::Apply(pick.get(&objects).clone()));
            if *flush_here {
                flush(&mut index, &mut tables);
            }
        }
        objects.iter().rev().for_each(|o| index.apply(Change::Apply(o.clone())));
        flush(&mut index, &mut tables);
        let full = Tables::full(&index_of(&objects), &context());
        prop_assert_eq!(dump::tables(&tables), dump::tables(&full));
    }

    #[test]
    fn incremental_update_equals_full_compilation(changes in vec(generate::change(), 1..25)) {
        let mut index = index_of(&[]);
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
                let properties = |tables: &Tables| {
                    let frontend = tables.frontend(&key)?;
                    Some((frontend.service.clone(), frontend.row, frontend.port.map(|p| p.id.clone())))
                };
                if properties(&before) != properties(&tables) {
                    prop_assert!(changed.frontends.contains(&key));
                }
            }
            for port in before.ports().chain(tables.ports()) {
                if before.port(&port.id) != tables.port(&port.id) {
                    prop_assert!(changed.ports.contains(&port.id));
                }
            }
            prop_assert_eq!(tables.ports().count(), tables.port_count());
            let backends: usize = tables.ports().map(PortRow::backend_count).sum();
            prop_assert_eq!(tables.backend_count(), backends);
            let mut without_local = WithoutLocal::default();
            tables.ports().for_each(|row| without_local.add(row));
            prop_assert_eq!(tables.without_local(), without_local);
            prop_assert_eq!(changed.networks, before.networks() != tables.networks());
            prop_assert_eq!(changed.routes, before.routes() != tables.routes());
            let conflicts = |tables: &Tables| -> Vec<(FrontendKey, Vec<ObjectName>)> {
                tables.conflicts().map(|c| (c.key, c.services().cloned().collect())).collect()
            };
            prop_assert_eq!(conflicts(&tables).len(), tables.conflict_count());
            let (old, new) = (conflicts(&before), conflicts(&tables));
            for conflict in old.iter().chain(&new) {
                let same = old.contains(conflict) && new.contains(conflict);
                prop_assert!(same || changed.conflicts.contains(&conflict.0));
            }
            prop_assert_eq!(changed.overlaps, before.overlaps() != tables.overlaps());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(400), failure_persistence: None, ..Default::default() })]

    #[test]
    fn compiled_services_agree_with_oracle(
        objects in generate::objects(),
        pods in generate::pods(),
        context in prop_oneof![
            2 => Just(context()),
            1 => Just(NodeContext { local_addresses: Vec::new(), ..context() }),
            2 => generate::node_context(),
        ],
    ) {
        let objects = [objects, pods].concat();
        let tables = Tables::full(&index_of(&objects), &context);
        let world = World { objects: &objects, node: THIS_NODE, context: &context };
        for packet in packets() {
            let expect = oracle::answer(world, packet);
            prop_assert_eq!(verdict::service(&tables, packet), expect, "{:?}", packet);
            let kept = verdict::kept_by_udp_flows(&tables, packet);
            let usable = oracle::usable_endpoints(world, packet);
            prop_assert!(packet.protocol != proto::UDP || kept == usable, "{:?}", packet);
        }
    }

    #[test]
    fn compiled_networks_agree_with_oracle(
        objects in generate::objects(),
        cidrs in generate::service_cidrs(),
        context in generate::node_context(),
    ) {
        let objects = [objects, cidrs].concat();
        let index = index_of(&objects);
        let tables = Tables::full(&index, &context);
        for address in generate::destinations() {
            let expect = oracle::network(&objects, THIS_NODE, &context, address);
            prop_assert_eq!(verdict::network(&tables, address), expect, "{}", address);
            let own = index.this_node().map(|n| n.pod_cidrs.clone()).unwrap_or_default();
            let expect = oracle::route(&objects, THIS_NODE, address);
            prop_assert_eq!(verdict::route(&tables, &own, address), expect, "{}", address);
        }
    }
}
