//! The cost of a change, by what it visits: it does not grow with what it does not touch.

use super::*;
use crate::model::{Labels, Tier};
use crate::visits;

/// Policies with one rule each that select one pod.
const POLICIES: u16 = 10_000;
/// Objects, contents and rows that a change may visit.
const MOST: usize = 200;

fn selector(key: &'static str, value: impl Into<std::sync::Arc<str>>) -> LabelSelector {
    LabelSelector::from_iter([Requirement::equals(key, value)])
}

/// Policy `n` of a namespace, with a rule in each direction: by a block, by labels of pods, or by a label of
/// namespaces.
fn policy(namespace: &'static str, n: u16, port: u16, pods: LabelSelector) -> Object {
    let peer = match n % 3 {
        0 => {
            let [high, low] = n.to_be_bytes();
            let cidr = IpAddr::from([192, 0, high, low]).into();
            PolicyPeer::Block(IpBlock { cidr, except: [].into() })
        }
        1 => PolicyPeer::Pods { namespaces: None, pods: selector("app", format!("app-{n}")) },
        _ => {
            let namespaces = Some(selector("team", format!("team-{n}")));
            PolicyPeer::Pods { namespaces, pods: LabelSelector::default() }
        }
    };
    let ports = PortSpec::Number(Port::new(port).unwrap());
    let ports = [PolicyPort { protocol: Protocol::Tcp, ports }].into();
    let rules = Some([PolicyRule { peers: [peer].into(), ports }].into());
    let name = ObjectName::new(namespace, format!("allow-{n}"));
    let (ingress, egress) = (rules.clone(), rules);
    let policy = NetworkPolicy { name, pod_selector: pods, ingress, egress, ..Default::default() };
    Object::NetworkPolicy(policy)
}

fn db() -> LabelSelector {
    selector("app", "db")
}

fn peer(namespace: &str, n: u16, labels: Labels) -> Object {
    let [high, low] = n.to_be_bytes();
    let Object::Pod(pod) = pod("", &[], [10, 1, high, low]) else { unreachable!() };
    Object::Pod(Pod { name: ObjectName::new(namespace, format!("peer-{n}")), labels, ..pod })
}

fn labels(app: u16, other: &'static str) -> Labels {
    [("app", format!("app-{app}")), ("other", other.to_owned())].into_iter().collect()
}

fn of_team(name: &str, team: u16) -> Object {
    let labels = [("team".to_owned(), format!("team-{team}"))].into();
    Object::Namespace(Namespace { name: name.into(), labels })
}

fn guard(port: u16) -> Object {
    let ports = PortSpec::Number(Port::new(port).unwrap());
    let ports = [PolicyPort { protocol: Protocol::Tcp, ports }].into();
    let all = LabelSelector::default;
    let peer = PolicyPeer::Pods { namespaces: Some(all()), pods: selector("app", "app-1") };
    let matches = PolicyRule { peers: [peer].into(), ports };
    let rule = ClusterRule { name: "".into(), action: RuleAction::Deny, matches, invalid: None };
    let mut guard = ClusterNetworkPolicy { name: "guard".into(), ..Default::default() };
    (guard.tier, guard.ingress) = (Tier::Admin, [rule].into());
    Object::ClusterNetworkPolicy(guard)
}

/// A policy for the pod `db` with this number of blocks, which no other number has.
fn with_blocks(name: &str, net: u8, blocks: u16) -> Object {
    let block = |n: u16| {
        let [high, low] = n.to_be_bytes();
        let cidr = IpAddr::from([192, net, high, low]).into();
        PolicyPeer::Block(IpBlock { cidr, except: [].into() })
    };
    let rule = PolicyRule { peers: (0..blocks).map(block).collect(), ports: [].into() };
    let name = ObjectName::new("shop", name);
    let ingress = Some([rule].into());
    Object::NetworkPolicy(NetworkPolicy {
        name,
        pod_selector: db(),
        ingress,
        ..NetworkPolicy::default()
    })
}

/// A namespace that may create policies must not stop the agent.
#[test]
fn blocks_that_do_not_fit_are_tried_once_when_others_end() {
    const BLOCKS: u16 = 1000;
    let mut index = Index::new(THIS_NODE);
    index.apply(Change::Apply(pod("db", &[("app", "db")], [10, 2, 0, 1])));
    index.apply(Change::Apply(with_blocks("first", 1, BLOCKS)));
    let local = [lease("db", [10, 2, 0, 1])];
    let mut policies = Policies::default();
    policies.limits.networks.prefixes = usize::from(BLOCKS) + 1;
    update(&mut policies, &mut index, &local);
    index.apply(Change::Apply(with_blocks("second", 2, BLOCKS)));
    update(&mut policies, &mut index, &local);
    assert!(policies.networks.refused().len() >= usize::from(BLOCKS));
    index.apply(Change::Delete(Kind::NetworkPolicy, ObjectName::new("shop", "first")));
    visits::take();
    update(&mut policies, &mut index, &local);
    let visited = visits::take();
    assert_eq!(policies.networks.refused().len(), 0);
    assert!(policies.rows().networks.len() >= usize::from(BLOCKS));
    assert!(visited <= 30 * usize::from(BLOCKS), "{visited} visits");
}

/// Each block of all addresses has another exception: the class of each prefix has nearly all blocks.
#[test]
fn blocks_whose_classes_would_take_a_gigabyte_are_refused_and_named() {
    const BLOCKS: u16 = 3000;
    let block = |n: u16| {
        let [high, low] = n.to_be_bytes();
        let all = "0.0.0.0/0".parse().unwrap();
        let except = [std::net::IpAddr::from([192, 0, high, low]).into()].into();
        PolicyPeer::Block(IpBlock { cidr: all, except })
    };
    let rule = PolicyRule { peers: (0..BLOCKS).map(block).collect(), ports: [].into() };
    let name = ObjectName::new("shop", "many");
    let ingress = Some([rule].into());
    let many = NetworkPolicy { name, ingress, ..NetworkPolicy::default() };
    let mut index = Index::new(THIS_NODE);
    index.apply(Change::Apply(namespace()));
    index.apply(Change::Apply(pod("db", &[], [10, 2, 0, 1])));
    index.apply(Change::Apply(Object::NetworkPolicy(many)));
    let mut policies = Policies::default();
    update(&mut policies, &mut index, &[lease("db", [10, 2, 0, 1])]);
    let refused = policies.networks.refused().len();
    assert!((500..2000).contains(&refused), "{refused} of {BLOCKS} refused");
    let findings = policies.findings(&index, KnownPods::OfCluster);
    let of_policy =
        |f: &&Finding| f.kind == Kind::NetworkPolicy && f.reason == FindingReason::Capacity;
    let text =
        findings.iter().find(of_policy).map(|finding| finding.text.clone()).unwrap_or_default();
    let others = refused - 1;
    assert!(
        text.contains(&format!("block 0.0.0.0/0, and {others} further peers, do not fit")),
        "{text}"
    );
}

#[test]
fn change_visits_what_it_touches_and_none_of_10_000_other_policies() {
    let mut index = Index::new(THIS_NODE);
    index.apply(Change::Apply(of_team("shop", POLICIES)));
    index.apply(Change::Apply(of_team("other", 2)));
    index.apply(Change::Apply(peer("other", 0, labels(0, ""))));
    index.apply(Change::Apply(pod("db", &[("app", "db")], [10, 2, 0, 1])));
    for n in 0..POLICIES {
        if n % 100 == 1 {
            index.apply(Change::Apply(peer("shop", n, labels(n, ""))));
        }
        index.apply(Change::Apply(policy("shop", n, 1024, db())));
    }
    index.apply(Change::Apply(guard(1)));
    let local = [lease("db", [10, 2, 0, 1])];
    let mut policies = Policies::default();
    update(&mut policies, &mut index, &local);
    policies.findings(&index, KnownPods::OfCluster);
    assert!(policies.rows().peers.len() > 6_000);
    let delete = |name: &str| Change::Delete(Kind::NetworkPolicy, ObjectName::new("shop", name));
    let changes = [
        ("one rule, block", Change::Apply(policy("shop", 3, 1025, db()))),
        ("one rule, pods", Change::Apply(policy("shop", 1, 1025, db()))),
        ("one rule, namespaces", Change::Apply(policy("shop", 2, 1025, db()))),
        ("one more policy", Change::Apply(policy("shop", POLICIES + 2, 1024, db()))),
        ("one policy less", delete("allow-6")),
        ("one that selects no pod", Change::Apply(policy("shop", 9, 1024, selector("app", "x")))),
        ("one that selects the pod again", Change::Apply(policy("shop", 9, 1024, db()))),
        ("one of another namespace", Change::Apply(policy("other", 7, 1024, db()))),
        ("ClusterNetworkPolicy", Change::Apply(guard(2))),
        ("label of a peer", Change::Apply(peer("shop", 101, labels(4, "")))),
        ("unrelated label of a peer", Change::Apply(peer("shop", 201, labels(201, "other")))),
        ("one more pod", Change::Apply(peer("shop", 4, labels(4, "")))),
        (
            "unrelated label of the selected pod",
            Change::Apply(pod("db", &[("app", "db"), ("other", "x")], [10, 2, 0, 1])),
        ),
        ("label of a namespace", Change::Apply(of_team("other", 5))),
    ];
    for (what, change) in changes {
        index.apply(change);
        visits::take();
        let steps = update(&mut policies, &mut index, &local);
        policies.findings(&index, KnownPods::OfCluster);
        let visited = visits::take();
        let writes = steps.iter().flat_map(|step| step.writes(0, &Default::default()));
        let written: usize = writes.map(|write| write.len()).sum();
        println!("{what}: {visited} visits, {written} rows");
        assert!(visited <= MOST && written <= 20, "{what}: {visited} visits, {written} rows");
    }
    let mut afresh = Policies::default();
    afresh.update(&index, &PolicyDirty::everything(), &local);
    assert_eq!(policies.rows(), afresh.rows());
    visits::take();
    afresh.update(&index, &PolicyDirty::everything(), &local);
    assert!(visits::take() > usize::from(POLICIES), "visits are counted");
}
