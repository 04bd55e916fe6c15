//! Changes of policies that once had a gap, or would have.

use sluice_abi::map;

use super::{Maps, Own, Transition, afresh, carry_out};
use crate::cases::policy_notation::{World, cluster, cluster_rule, rule};
use crate::index::PolicyDirty;
use crate::model::{Change, Node, Object, PolicyRule, RuleAction, Tier, parse_cidr};
use crate::policy::{Policies, Step};

/// Brings the policies from one state to the next, and checks every write.
fn change(from: &World, to: &World) {
    carry_over(from, to, false);
}

/// The same for a change of several objects, which may drop flows. Returns whether any was dropped.
fn change_of_several(from: &World, to: &World) -> bool {
    carry_over(from, to, true)
}

fn carry_over(from: &World, to: &World, several: bool) -> bool {
    let (mut policies, mut maps) = (Policies::default(), Maps::default());
    let everything = PolicyDirty::everything();
    for step in policies.update(&from.index(), &everything, &from.local) {
        carry_out(&mut maps, &step, &from.local, &Own::new(), None);
    }
    let steps = policies.update(&to.index(), &everything, &to.local);
    let (before, after) = (maps.rows.clone(), policies.rows());
    let change = Transition { before: &before, after: &after, several };
    assert!(!steps.is_empty());
    let mut dropped = false;
    for step in steps {
        dropped |= carry_out(&mut maps, &step, &to.local, &Own::new(), Some(change));
    }
    assert_eq!(maps.rows, after);
    dropped
}

/// From the rows of one state to those of another. Returns whether any flow was dropped that both admit.
fn recover(from: &World, to: &World) -> bool {
    let rows = |world: &World| afresh(&world.index(), &world.local);
    let (old, new) = (rows(from), rows(to));
    let mut dropped = false;
    for rejudge in [false, true] {
        let mut maps = Maps { rows: old.clone(), ..Maps::default() };
        for step in Step::recovery(map::POLICY_CLASSES_MAX, old.clone(), &new, &to.local, rejudge) {
            let change = Transition { before: &old, after: &new, several: true };
            dropped |= carry_out(&mut maps, &step, &to.local, &Own::new(), Some(change));
        }
        assert_eq!(maps.rows, new);
    }
    dropped
}

#[test]
fn policy_with_new_selectors_and_rules_admits_all_the_time_what_it_admitted() {
    let world = World::new().pod("shop/web", "role=web", "10.244.1.2", &[]).pod(
        "shop/db",
        "role=db",
        "10.244.1.3",
        &[],
    );
    let with = |rules: &[PolicyRule]| world.clone().policy("shop/p", "role=db", Some(rules), None);
    let web = rule(&["role=web"], &["TCP 80"]);
    let other = rule(&["role", "10.0.0.0/8-10.244.1.0/24"], &["TCP 81"]);
    let (one, both) = (with(std::slice::from_ref(&web)), with(&[web.clone(), other]));
    change(&one, &both);
    change(&both, &one);
}

#[test]
fn pod_ranges_that_are_replaced_by_others_leave_no_gap() {
    let world = World::new().pod("shop/db", "role=db", "10.244.1.3", &[]).policy(
        "shop/p",
        "role=db",
        Some(&[rule(&["@*"], &[])]),
        None,
    );
    let with = |ranges: &[&str]| {
        let pod_cidrs = ranges.iter().filter_map(|range| parse_cidr(range)).collect();
        world.clone().with(Object::Node(Node { name: "n1".into(), pod_cidrs, ..Node::default() }))
    };
    change(&with(&["10.244.0.0/16"]), &with(&["10.244.1.0/24", "10.244.2.0/25"]));
    change(&with(&["10.244.1.0/24", "10.244.2.0/25"]), &with(&["10.244.0.0/16"]));
}

#[test]
fn flows_to_a_named_port_that_moves_are_judged_again() {
    let with = |ports: &[&str]| {
        World::new()
            .pod("shop/db", "role=db", "10.244.1.3", &[])
            .pod("shop/web", "role=web", "10.244.1.2", ports)
            .policy("shop/p", "role=db", None, Some(&[rule(&["role=web"], &["TCP http"])]))
    };
    change(&with(&["http=TCP 80"]), &with(&["http=TCP 81"]));
    change(&with(&["http=TCP 80"]), &with(&[]));
}

#[test]
fn namespace_that_moves_between_policies_is_closed_in_between() {
    let deny = |zone: &str| {
        let rules = [cluster_rule(RuleAction::Deny, &[&format!("@zone={zone}/*")], &[])];
        cluster(zone, (Tier::Admin, 0), &format!("@zone={zone}/*"), &rules, &[])
    };
    let before = World::new()
        .namespace("shop", "zone=a")
        .pod("shop/web", "role=web", "10.244.1.2", &[])
        .pod("shop/db", "role=db", "10.244.1.3", &[])
        .cluster_policy(deny("a"))
        .cluster_policy(deny("b"));
    let after = before.clone().namespace("shop", "zone=b");
    // Neither policy alone denies it between the change of the peers and that of the tables.
    for world in [&before, &after] {
        world.expect(false, &["shop/web > shop/db: TCP 1", "shop/db > shop/web: TCP 1"]);
    }
    let (mut index, mut policies, mut maps) =
        (before.index(), Policies::default(), Maps::default());
    for step in policies.update(&index, &index.clone().take_policy_dirty(), &before.local) {
        carry_out(&mut maps, &step, &before.local, &Own::new(), None);
    }
    index.take_policy_dirty();
    let namespace = after.objects.iter().find(|o| o.name().to_string() == "shop");
    index.apply(Change::Apply(namespace.cloned().expect("the namespace")));
    let dirty = index.take_policy_dirty();
    let steps = policies.update(&index, &dirty, &before.local);
    let (rows, was) = (policies.rows(), maps.rows.clone());
    let mut closed = 0;
    for step in steps {
        let change = Transition { before: &was, after: &rows, several: true };
        let dropped = carry_out(&mut maps, &step, &before.local, &Own::new(), Some(change));
        closed += usize::from(dropped);
    }
    // From the step that closes them until the one with the new tables.
    assert!(closed >= 1, "not closed");
    assert_eq!(maps.rows, rows);
}

#[test]
fn address_whose_range_comes_or_goes_with_its_pod_never_has_the_class_of_a_range() {
    let deny = cluster_rule(RuleAction::Deny, &["10.0.0.0/8"], &["TCP http"]);
    let guarded = World::new()
        .pod("shop/web", "role=web", "10.244.1.2", &[])
        .cluster_policy(cluster("guard", (Tier::Admin, 0), "@*/*", &[], &[deny]));
    let local = guarded.local.clone();
    // An unknown pod may have the port.
    let without = Object::Node(Node { name: "n1".into(), ..Node::default() });
    let world = |pod: Option<&str>, in_range: bool| {
        let mut world = guarded.clone();
        if let Some(pod) = pod {
            world = world.pod(pod, "", "10.244.2.2", &[]);
        }
        world.local.clone_from(&local);
        if in_range { world } else { world.with(without.clone()) }
    };
    for (from, to) in [
        ((None, true, false), (Some("unknown/new"), false, false)),
        ((None, false, true), (Some("shop/new"), true, true)),
    ] {
        for (pod, in_range, passes) in [from, to] {
            world(pod, in_range).expect(passes, &["shop/web > 10.244.2.2: TCP 80"]);
        }
        change(&world(from.0, from.1), &world(to.0, to.1));
        change(&world(to.0, to.1), &world(from.0, from.1));
    }
}

#[test]
fn pods_that_leave_or_get_a_policy_as_its_rules_change_see_their_own_rules_only() {
    let with = |pods: &str, port: &str| {
        World::new()
            .pod("shop/web", "role=web", "10.244.1.2", &[])
            .pod("shop/a", "role=a,app=x", "10.244.1.3", &[])
            .pod("shop/b", "role=b,app=x", "10.244.1.4", &[])
            .policy("shop/p", pods, Some(&[rule(&["role=web"], &[port])]), None)
    };
    let (both, one) = (with("app=x", "TCP 80"), with("role=a", "TCP 81"));
    change(&both, &one);
    change(&one, &both);
}

#[test]
fn pod_that_leaves_one_changed_policy_for_another_is_closed_in_between() {
    let with = |moving: &str, one: &str, other: &str| {
        World::new()
            .pod("shop/web", "role=web", "10.244.1.2", &[])
            .pod("shop/a", "app=a", "10.244.1.3", &[])
            .pod("shop/b", "app=b", "10.244.1.4", &[])
            .pod("shop/c", moving, "10.244.2.2", &[])
            .policy("shop/a", "app=a", Some(&[rule(&["role=web"], &[one])]), None)
            .policy("shop/b", "app=b", Some(&[rule(&["role=web"], &[other])]), None)
    };
    let (before, after) = (with("app=a", "TCP 80", "TCP 81"), with("app=b", "TCP 53", "TCP 82"));
    assert!(change_of_several(&before, &after));
    assert!(change_of_several(&after, &before));
}

#[test]
fn recovery_adds_new_pods_when_tables_have_no_rows_of_before() {
    let with = |peer: &str| {
        World::new()
            .pod("shop/web", "role=web", "10.244.1.2", &[])
            .pod("shop/a", "app=a", "10.244.1.3", &[])
            .pod("shop/b", "app=b", "10.244.1.4", &[])
            .policy("shop/a", "app=a", Some(&[rule(&[peer], &["TCP 80"])]), None)
            .policy("shop/b", "app=b", Some(&[rule(&["role=web"], &["TCP 81"])]), None)
    };
    let (before, after) =
        (with("role=web"), with("app=b").pod("shop/c", "app=a", "10.244.2.2", &[]));
    recover(&before, &after);
}

#[test]
fn recovery_admits_nothing_to_pods_that_change_over_between_tables_that_change() {
    let with = |moving: &str, one: &[&str], other: &[&str]| {
        let rules = |peers: &[&str]| {
            let rule = |peer: &&str| rule(&[peer], &["TCP 80"]);
            peers.iter().map(rule).collect::<Vec<_>>()
        };
        World::new()
            .pod("shop/web", "role=web", "10.244.1.2", &[])
            .pod("shop/a", "app=a", "10.244.1.3", &[])
            .pod("shop/b", "app=b", "10.244.1.4", &[])
            .pod("shop/c", moving, "10.244.2.2", &[])
            // The classes of all peers stay.
            .policy(
                "shop/all",
                "app",
                Some(&rules(&["role=none"])),
                Some(&rules(&["role=web", "app=x"])),
            )
            .policy("shop/a", "app=a", Some(&rules(one)), None)
            .policy("shop/b", "app=b", Some(&rules(other)), None)
    };
    let (none, web): (&[&str], &[&str]) = (&[], &["role=web"]);
    // The former table gets a row; the next one loses one.
    for (one, other) in [([none, web], [none, none]), ([none, none], [web, none])] {
        let before = with("app=a", one[0], other[0]);
        let after = with("app=b", one[1], other[1]);
        recover(&before, &after);
    }
}

#[test]
fn policy_in_place_of_another_one_has_its_own_rules() {
    let with = |name: &str, port: &str| {
        World::new()
            .pod("shop/web", "role=web", "10.244.1.2", &[])
            .pod("shop/db", "role=db", "10.244.1.3", &[])
            .policy(name, "role=db", Some(&[rule(&["role=web"], &[port])]), None)
    };
    let (before, after) = (with("shop/a", "TCP 80"), with("shop/b", "TCP 81"));
    let mut policies = Policies::default();
    policies.update(&before.index(), &PolicyDirty::everything(), &before.local);
    policies.update(&after.index(), &PolicyDirty::everything(), &after.local);
    assert_eq!(policies.rows(), afresh(&after.index(), &after.local));
}

#[test]
fn recovery_to_other_tables_with_the_same_rules_drops_nothing() {
    let with = |pods: &str| {
        World::new()
            .pod("shop/web", "role=web", "10.244.1.2", &[])
            .pod("shop/db", "role=db,app=db", "10.244.1.3", &[])
            .policy("shop/p", pods, Some(&[rule(&["role=web"], &["TCP 80"])]), None)
    };
    let (before, after) =
        (with("role=db"), with("app=db").pod("shop/db2", "role=db,app=db", "10.244.1.4", &[]));
    let rows = |world: &World| afresh(&world.index(), &world.local);
    let (old, new) = (rows(&before), rows(&after));
    assert_ne!(old.pods[&1].ends, new.pods[&1].ends);
    assert!(!recover(&before, &after) && !recover(&after, &before));
}

#[test]
fn step_in_which_every_pod_changes_its_row_leaves_a_mark() {
    let with = |rules: &[PolicyRule]| {
        World::new()
            .pod("shop/web", "role=web", "10.244.1.2", &[])
            .pod("shop/db", "role=db", "10.244.1.3", &[])
            .policy("shop/p", "role=db", Some(rules), None)
    };
    let before = with(&[rule(&["role=web"], &["TCP 80"])]);
    let after = with(&[rule(&["role=web"], &["TCP 81"]), rule(&[], &["TCP 53"])]);
    change(&before, &after);
    change(&after, &before);
}

#[test]
fn recovery_after_a_new_peer_drops_nothing() {
    let before = World::new()
        .pod("shop/web", "role=web", "10.244.1.2", &[])
        .pod("shop/db", "role=db", "10.244.1.3", &[])
        .policy(
            "shop/p",
            "role=db",
            Some(&[rule(&["role=web"], &["TCP 80"]), rule(&["role=api"], &[])]),
            None,
        );
    let mut after = before.clone().pod("shop/api", "role=api", "10.244.2.2", &[]);
    after.local.clone_from(&before.local);
    assert!(!recover(&before, &after) && !recover(&after, &before));
}

#[test]
fn recovery_drops_nothing_when_a_policy_selects_another_pod_and_loses_a_rule() {
    let with = |subject: &str, peers: &[&str]| {
        let deny = |peer: &&str| cluster_rule(RuleAction::Deny, &[peer], &[]);
        let rules: Vec<_> = peers.iter().map(deny).collect();
        let all = ["@*/role=web", "@*/role=api"]
            .map(|peer| cluster_rule(RuleAction::Accept, &[peer], &[]));
        World::new()
            .pod("shop/web", "role=web", "10.244.1.2", &[])
            .pod("shop/api", "role=api", "10.244.1.3", &[])
            .pod("shop/a", "app=a", "10.244.1.4", &[])
            .pod("shop/b", "app=b", "10.244.1.5", &[])
            .cluster_policy(cluster("guard", (Tier::Admin, 0), subject, &rules, &[]))
            // The classes of all peers stay.
            .cluster_policy(cluster("all", (Tier::Admin, 1), "@*/app=a", &[], &all))
    };
    let before = with("@*/app=a", &["@*/role=web", "@*/role=api"]);
    let after = with("@*/app", &["@*/role=web"]);
    before.expect(true, &["shop/api > shop/b: TCP 80"]);
    after.expect(true, &["shop/api > shop/b: TCP 80"]);
    assert!(!recover(&before, &after));
}

#[test]
fn pod_leaves_a_table_before_its_rows_go() {
    let world = World::new().pod("shop/web", "role=web", "10.244.1.2", &[]).pod(
        "shop/db",
        "role=db",
        "10.244.1.3",
        &[],
    );
    let allow = Some([rule(&["role=web"], &["TCP 80"])]);
    let with = world.clone().policy("shop/p", "role=db", allow.as_ref().map(|r| &r[..]), None);
    change(&with, &world);
    let more =
        with.clone().policy("shop/q", "role=db", Some(&[rule(&["role=db"], &["TCP 81"])]), None);
    change(&with, &more);
    change(&more, &with);
}
