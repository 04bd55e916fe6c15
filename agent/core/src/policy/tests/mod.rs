//! Sizes, and single changes.

mod bad_input;
mod capacity;
mod cost;

use proptest::collection::vec;
use proptest::prelude::*;
use sluice_abi::{PolicyDirection, map};

use super::compiler::Limits;
use super::*;
use crate::generate::{self, THIS_NODE};
use crate::index::PolicyDirty;
use crate::model::{
    Change, ClusterNetworkPolicy, ClusterRule, IpBlock, LabelSelector, Namespace, NetworkPolicy,
    Object, Operator, Pod, PolicyPeer, PolicyPort, PolicyRule, Port, PortSpec, Protocol,
    Requirement, RuleAction,
};
use crate::properties::cases;

fn pod(name: &str, labels: &[(&'static str, &'static str)], address: [u8; 4]) -> Object {
    Object::Pod(Pod {
        name: ObjectName::new("shop", name),
        labels: labels.iter().copied().collect(),
        ips: [IpAddr::from(address)].into_iter().collect(),
        ..Pod::default()
    })
}

fn namespace() -> Object {
    Object::Namespace(Namespace { name: "shop".into(), ..Namespace::default() })
}

/// Pods with app=`to` receive from pods with app=`from` only.
fn allow(to: &'static str, from: &'static str) -> Object {
    let app = |value: &'static str| LabelSelector::from_iter([Requirement::equals("app", value)]);
    let peer = PolicyPeer::Pods { namespaces: None, pods: app(from) };
    let rule = PolicyRule { peers: [peer].into(), ports: [].into() };
    Object::NetworkPolicy(NetworkPolicy {
        name: ObjectName::new("shop", to),
        pod_selector: app(to),
        ingress: Some([rule].into()),
        ..NetworkPolicy::default()
    })
}

fn lease(name: &str, address: [u8; 4]) -> LocalPod {
    let name = Some(ObjectName::new("shop", name));
    LocalPod { index: 1, generation: 5, address: address.into(), name, uid: None }
}

fn update(policies: &mut Policies, index: &mut Index, local: &[LocalPod]) -> Vec<Step> {
    let dirty = index.take_policy_dirty();
    policies.update(index, &dirty, local)
}

impl Policies {
    /// Sizes of everything that is kept.
    fn sizes(&self) -> [usize; 11] {
        let [pods, groups, claims, names] = self.pods.sizes();
        [
            self.terms.registry.len(),
            self.rules.registry.len(),
            self.tables.identities.len(),
            self.tables.sets.len(),
            self.classes.registry.len(),
            self.unclassed.len(),
            self.networks.refused().len(),
            pods,
            groups,
            claims,
            names,
        ]
    }
}

#[test]
fn ten_thousand_equal_pods_are_one_class() {
    let mut index = Index::new(THIS_NODE);
    for n in 0..10_000u16 {
        let [high, low] = n.to_be_bytes();
        let pod = pod(&format!("web-{n}"), &[("app", "web"), ("tier", "x")], [10, 1, high, low]);
        index.apply(Change::Apply(pod));
    }
    index.apply(Change::Apply(pod("db", &[("app", "db")], [10, 2, 0, 1])));
    index.apply(Change::Apply(allow("db", "web")));
    let local = [lease("db", [10, 2, 0, 1])];
    let mut policies = Policies::default();
    policies.update(&index, &index.clone().take_policy_dirty(), &local);
    let rows = policies.rows();
    assert_eq!(rows.classes.len(), 10_000);
    assert_eq!(policies.classes.registry.len(), 1);
    assert_eq!((rows.peers.len(), rows.ports.len(), rows.networks.len()), (1, 0, 0));

    // One pod more is one row, and no flow is judged again but those from its address.
    index.take_policy_dirty();
    index.apply(Change::Apply(pod("web-new", &[("app", "web"), ("tier", "x")], [10, 3, 0, 1])));
    let steps = update(&mut policies, &mut index, &local);
    assert_eq!(steps.len(), 1);
    assert_eq!((steps[0].classes.puts.len(), steps[0].peers.puts.len()), (1, 0));
    assert_eq!(steps[0].pods, [(1, rows.pods[&1])]);
    // A label that no rule names changes nothing.
    index.apply(Change::Apply(pod("web-new", &[("app", "web"), ("tier", "y")], [10, 3, 0, 1])));
    let dirty = index.take_policy_dirty();
    assert!(!dirty.is_empty() && policies.update(&index, &dirty, &local).is_empty());
}

#[test]
fn change_of_a_rule_writes_the_rows_that_it_affects() {
    let policy = |n: u8, port: i64| {
        let app = Requirement {
            key: "app".into(),
            operator: Operator::In([n.to_string().into()].into()),
        };
        let peer = PolicyPeer::Pods { namespaces: None, pods: LabelSelector::from_iter([app]) };
        let ports = PortSpec::Number(Port::new(port).unwrap());
        let ports = [PolicyPort { protocol: Protocol::Tcp, ports }].into();
        Object::NetworkPolicy(NetworkPolicy {
            name: ObjectName::new("shop", format!("allow-{n}")),
            pod_selector: LabelSelector::from_iter([Requirement::equals("app", "db")]),
            ingress: Some([PolicyRule { peers: [peer].into(), ports }].into()),
            ..NetworkPolicy::default()
        })
    };
    let mut index = Index::new(THIS_NODE);
    index.apply(Change::Apply(pod("db", &[("app", "db")], [10, 2, 0, 1])));
    for n in 0..100 {
        let mut web = pod(&format!("web-{n}"), &[], [10, 1, 0, n]);
        if let Object::Pod(pod) = &mut web {
            pod.labels = [("app", n.to_string())].into_iter().collect();
        }
        index.apply(Change::Apply(web));
        index.apply(Change::Apply(policy(n, 80)));
    }
    let local = [lease("db", [10, 2, 0, 1])];
    let mut policies = Policies::default();
    update(&mut policies, &mut index, &local);
    assert_eq!(policies.rows().peers.len(), 100);
    index.apply(Change::Apply(policy(7, 81)));
    let steps = update(&mut policies, &mut index, &local);
    assert_eq!(steps.len(), 1);
    assert_eq!((steps[0].peers.puts.len(), steps[0].peers.deletes.len()), (1, 0));
    assert!(steps[0].classes.is_empty() && steps[0].ports.is_empty());
    assert_eq!(steps[0].pods, [(1, policies.rows().pods[&1])]);
}

#[test]
fn comparison_that_finds_another_class_judges_flows_of_isolated_pods_again() {
    let mut index = Index::new(THIS_NODE);
    index.apply(Change::Apply(pod("web", &[("app", "web")], [10, 1, 0, 1])));
    index.apply(Change::Apply(pod("db", &[("app", "db")], [10, 2, 0, 1])));
    index.apply(Change::Apply(pod("free", &[("app", "none")], [10, 2, 0, 2])));
    index.apply(Change::Apply(allow("db", "web")));
    let free = LocalPod { index: 2, ..lease("free", [10, 2, 0, 2]) };
    let mut policies = Policies::default();
    update(&mut policies, &mut index, &[lease("db", [10, 2, 0, 1]), free]);
    let rows = policies.rows();
    assert_eq!((rows.pods.len(), rows.classes.len()), (2, 1));
    assert!(
        Step::recovery(map::POLICY_CLASSES_MAX, rows.clone(), &rows, &[], false)
            .iter()
            .all(Step::is_empty)
    );
    let mut found = rows.clone();
    found.classes.clear();
    let [_, closing, _, step, opening, last] =
        Step::recovery(map::POLICY_CLASSES_MAX, found.clone(), &rows, &[], false);
    assert!(closing.is_empty() && opening.is_empty() && last.is_empty());
    assert_eq!(step.classes.puts.len(), 1);
    assert_eq!(step.pods, [(1, rows.pods[&1])]);
    // A changed row is written once.
    found.pods.clear();
    let [_, closing, _, step, opening, last] =
        Step::recovery(map::POLICY_CLASSES_MAX, found.clone(), &rows, &[], false);
    assert!(closing.is_empty() && opening.is_empty() && last.is_empty());
    assert_eq!(step.pods.len(), 2);
}

#[test]
fn pods_that_swap_their_labels_swap_their_policies() {
    let mut index = Index::new(THIS_NODE);
    let (a, b) = ([10, 2, 0, 1], [10, 2, 0, 2]);
    let labelled = |index: &mut Index, of_a: &'static str, of_b: &'static str| {
        index.apply(Change::Apply(pod("a", &[("app", of_a)], a)));
        index.apply(Change::Apply(pod("b", &[("app", of_b)], b)));
    };
    labelled(&mut index, "db", "web");
    index.apply(Change::Apply(allow("db", "web")));
    index.apply(Change::Apply(allow("web", "db")));
    let local = [lease("a", a), LocalPod { index: 2, ..lease("b", b) }];
    let mut policies = Policies::default();
    update(&mut policies, &mut index, &local);
    labelled(&mut index, "web", "db");
    update(&mut policies, &mut index, &local);
    for policy in [allow("db", "none"), allow("web", "none")] {
        index.apply(Change::Apply(policy));
        update(&mut policies, &mut index, &local);
        let mut afresh = Policies::default();
        afresh.update(&index, &PolicyDirty::everything(), &local);
        assert_eq!(policies.rows(), afresh.rows());
    }
}

#[test]
fn without_policies_no_pod_is_kept() {
    let mut index = Index::new(THIS_NODE);
    index.apply(Change::Apply(pod("web", &[("app", "web")], [10, 1, 0, 1])));
    index.apply(Change::Apply(pod("db", &[("app", "db")], [10, 2, 0, 1])));
    let local = [lease("db", [10, 2, 0, 1])];
    let mut policies = Policies::default();
    update(&mut policies, &mut index, &local);
    assert_eq!((policies.sizes(), policies.rows().pods.len()), ([0; 11], 1));
    index.apply(Change::Apply(allow("db", "web")));
    update(&mut policies, &mut index, &local);
    assert_eq!(policies.pods.sizes()[0], 2);
    index.apply(Change::Retain(Kind::NetworkPolicy, vec![]));
    update(&mut policies, &mut index, &local);
    assert_eq!(policies.sizes(), [0; 11]);
}

#[test]
fn pod_is_decided_if_its_namespace_comes_as_the_last_policy_that_selects_namespaces_goes() {
    let labels = LabelSelector::from_iter([Requirement::equals("app", "web")]);
    let mut guard = ClusterNetworkPolicy { name: "guard".into(), ..Default::default() };
    guard.subject.namespaces = labels;
    let matches = PolicyRule::default();
    let action = RuleAction::Accept;
    guard.ingress = [ClusterRule { name: "".into(), action, matches, invalid: None }].into();
    let mut index = Index::new(THIS_NODE);
    index.apply(Change::Apply(pod("db", &[("app", "db")], [10, 2, 0, 1])));
    index.apply(Change::Apply(allow("web", "db")));
    index.apply(Change::Apply(Object::ClusterNetworkPolicy(guard)));
    let local = [lease("db", [10, 2, 0, 1])];
    let mut policies = Policies::default();
    update(&mut policies, &mut index, &local);
    assert!(policies.rows().pods.is_empty(), "labels of the namespace decide");
    index.apply(Change::Apply(namespace()));
    index.apply(Change::Retain(Kind::ClusterNetworkPolicy, vec![]));
    update(&mut policies, &mut index, &local);
    assert_eq!(policies.rows().pods.len(), 1);
}

#[test]
fn pod_that_loses_an_address_as_it_changes_tables_stays_open() {
    let mut index = Index::new(THIS_NODE);
    let (leased, other) = ([10, 2, 0, 1], [10, 2, 0, 9]);
    index.apply(Change::Apply(pod("db", &[("app", "web")], other)));
    index.apply(Change::Apply(allow("web", "web")));
    index.apply(Change::Apply(allow("db", "web")));
    let local = [lease("db", leased)];
    let mut policies = Policies::default();
    update(&mut policies, &mut index, &local);
    assert_eq!(policies.rows().classes.len(), 2, "both addresses");
    index.apply(Change::Apply(pod("db", &[("app", "db")], leased)));
    let steps = update(&mut policies, &mut index, &local);
    let rows: Vec<_> = steps.iter().flat_map(|step| &step.pods).collect();
    assert!(!rows.is_empty());
    assert!(rows.iter().all(|(_, row)| !row.ends.contains(&tables::CLOSED_END)), "{rows:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(96), failure_persistence: None, ..Default::default() })]

    #[test]
    fn nothing_is_left_when_all_objects_are_deleted(
        objects in generate::policy_objects(),
        local in generate::leases(),
        changes in vec(generate::policy_change(), 0..8),
        bits in 0..5u32,
        limit in 0..200usize,
    ) {
        let mut index = Index::new(THIS_NODE);
        let mut policies = Policies::default();
        policies.limits.networks.prefixes = limit;
        policies.limits.classes = limit;
        policies.classes.registry.mask = if bits == 0 { u64::MAX } else { (1 << bits) - 1 };
        for change in objects.into_iter().map(Change::Apply).chain(changes) {
            index.apply(change);
            update(&mut policies, &mut index, &local);
        }
        for kind in Kind::ALL {
            index.apply(Change::Retain(kind, vec![]));
        }
        update(&mut policies, &mut index, &[]);
        prop_assert_eq!(policies.rows(), PolicyRows::default());
        prop_assert_eq!(policies.sizes(), [0; 11]);
    }
}
