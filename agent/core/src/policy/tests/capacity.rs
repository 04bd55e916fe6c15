//! Capacities and collisions.

use super::*;
use crate::diff::Capacity;
use crate::policy::networks::NetworkLimits;

/// A ClusterNetworkPolicy that denies every pod to send what `matches` matches.
fn guard(matches: PolicyRule) -> Object {
    let rule = ClusterRule { name: "".into(), action: RuleAction::Deny, matches, invalid: None };
    Object::ClusterNetworkPolicy(ClusterNetworkPolicy {
        name: "guard".into(),
        egress: [rule].into(),
        ..ClusterNetworkPolicy::default()
    })
}

#[test]
fn limits_are_those_of_the_specification() {
    let Limits { peers, ports, networks, classes } = Limits::default();
    assert_eq!([peers, ports, networks.prefixes, classes], [65_536, 65_536, 65_536, 229_376]);
}

#[test]
fn table_that_does_not_fit_closes_its_pods_until_it_fits() {
    let mut index = Index::new(THIS_NODE);
    index.apply(Change::Apply(pod("web", &[("app", "web")], [10, 1, 0, 1])));
    index.apply(Change::Apply(pod("db", &[("app", "db")], [10, 2, 0, 1])));
    index.apply(Change::Apply(allow("db", "web")));
    let local = [lease("db", [10, 2, 0, 1])];
    let mut policies = Policies::default();
    policies.limits = Limits { peers: 0, ..Limits::default() };
    update(&mut policies, &mut index, &local);
    let judge = |policies: &Policies| {
        let web = [10, 1, 0, 1].into();
        policies.rows().judge(&local[0], PolicyDirection::Ingress, web, 6, 80)
    };
    assert_eq!(judge(&policies), Judgement::Deny);
    assert!(policies.rows().peers.is_empty());
    let findings = policies.findings(&index, KnownPods::OfCluster);
    let named: Vec<_> = findings.iter().map(|f| (f.kind, f.object.to_string(), f.reason)).collect();
    assert_eq!(named, [(Kind::Pod, "shop/db".to_owned(), FindingReason::Capacity)]);
    policies.limits = Limits::default();
    let steps = policies.update(&index, &PolicyDirty::default(), &local);
    assert_eq!((steps.len(), judge(&policies)), (1, Judgement::Pass));
    assert!(policies.findings(&index, KnownPods::OfCluster).is_empty());
}

#[test]
fn policies_with_blocks_that_do_not_fit_are_named_and_pods_that_deny_them_closed() {
    let block = || {
        PolicyPeer::Block(IpBlock { cidr: "198.51.100.0/24".parse().unwrap(), except: [].into() })
    };
    let matches = || PolicyRule { peers: [block()].into(), ports: [].into() };
    let all = LabelSelector::default;
    let own = NetworkPolicy {
        name: ObjectName::new("shop", "own"),
        pod_selector: all(),
        ingress: Some([matches()].into()),
        ..NetworkPolicy::default()
    };
    let mut index = Index::new(THIS_NODE);
    index.apply(Change::Apply(namespace()));
    index.apply(Change::Apply(pod("db", &[], [10, 2, 0, 1])));
    index.apply(Change::Apply(pod("far", &[], [10, 3, 0, 1])));
    index.apply(Change::Apply(Object::NetworkPolicy(own)));
    index.apply(Change::Apply(guard(matches())));
    let local = [lease("db", [10, 2, 0, 1])];
    let mut policies = Policies::default();
    policies.limits.networks.prefixes = 0;
    update(&mut policies, &mut index, &local);
    let findings = policies.findings(&index, KnownPods::OfCluster);
    let named: Vec<_> = findings.iter().map(|f| (f.kind, f.object.to_string(), f.reason)).collect();
    let capacity = |kind, name: &str| (kind, name.to_owned(), FindingReason::Capacity);
    let expected = [
        capacity(Kind::Pod, "shop/db"),
        capacity(Kind::NetworkPolicy, "shop/own"),
        capacity(Kind::ClusterNetworkPolicy, "guard"),
    ];
    assert_eq!(named, expected);
    let egress = |peer: [u8; 4]| {
        policies.rows().judge(&local[0], PolicyDirection::Egress, peer.into(), 6, 80)
    };
    assert_eq!([egress([198, 51, 100, 7]), egress([1, 1, 1, 1])], [Judgement::Deny; 2]);
    // As explained: the rule that does not fit, and what is closed by it.
    let explain = |policies: &Policies, direction, pod: &str| {
        let (pod, peer) = (ObjectName::new("shop", pod), [198, 51, 100, 7].into());
        policies.explain(&index, &Query { pod, direction, peer, protocol: 6, port: 80 }).verdict
    };
    let own = "shop/own allows all ports from 198.51.100.0/24; the client has 198.51.100.7, but the \
               block 198.51.100.0/24 does not fit into the map of networks";
    let Verdict::Denied(near) = explain(&policies, PolicyDirection::Ingress, "db") else {
        panic!("not denied")
    };
    assert_eq!(near.iter().map(|miss| &*miss.text).collect::<Vec<_>>(), [own]);
    let closing = Closing {
        reason: FindingReason::Capacity,
        policy: Some(ObjectName::cluster("guard")),
        text: "block 198.51.100.0/24 of guard does not fit into the map, and rules must not \
               accept it"
            .to_owned(),
    };
    let egress = || explain(&policies, PolicyDirection::Egress, "db");
    assert_eq!(egress(), Verdict::Closed(closing.clone()));
    let pod = &findings[0].text;
    assert_eq!(*pod, format!("egress is closed: {}", closing.text));
    assert!(!policies.has_addresses_of(&block()));
    // The maps of this node are not those of another one.
    let of_other = explain(&policies, PolicyDirection::Ingress, "far");
    assert!(matches!(of_other, Verdict::Allowed(_)), "{of_other:?}");
}

/// A pod of this node that receives from `peers` others, by a label of each.
fn many(peers: u8) -> (Index, [LocalPod; 1]) {
    let mut index = Index::new(THIS_NODE);
    index.apply(Change::Apply(namespace()));
    let Object::Pod(db) = pod("db", &[], [10, 2, 0, 1]) else { panic!("a pod") };
    index.apply(Change::Apply(Object::Pod(Pod { node: Some(THIS_NODE.into()), ..db })));
    let mut rules = Vec::new();
    for n in 1..=peers {
        let Object::Pod(mut peer) = pod(&format!("w{n}"), &[], [10, 3, 0, n]) else { continue };
        peer.labels = [("app", n.to_string())].into_iter().collect();
        index.apply(Change::Apply(Object::Pod(peer)));
        let app = LabelSelector::from_iter([Requirement::equals("app", n.to_string())]);
        let ports = [PolicyPort {
            protocol: Protocol::Tcp,
            ports: PortSpec::Number(Port::new(n).unwrap()),
        }];
        let peers = [PolicyPeer::Pods { namespaces: None, pods: app }];
        rules.push(PolicyRule { peers: peers.into(), ports: ports.into() });
    }
    index.apply(Change::Apply(Object::NetworkPolicy(NetworkPolicy {
        name: ObjectName::new("shop", "db"),
        pod_selector: LabelSelector::default(),
        ingress: Some(rules.into()),
        ..NetworkPolicy::default()
    })));
    (index, [lease("db", [10, 2, 0, 1])])
}

#[test]
fn needed_capacities_leave_space_for_rows_that_are_replaced() {
    let (mut index, local) = many(10);
    let mut policies = Policies::default();
    update(&mut policies, &mut index, &local);
    assert_eq!((policies.rows().peers.len(), policies.rows().classes.len()), (10, 10));
    let needed = policies.needed();
    assert_eq!((needed.policy_peers, needed.policy_classes), (20, 16));
    assert_eq!(Policies::needed_for(&index), needed);
    // They are known whatever fits.
    let small = Capacity { policy_peers: 2, policy_classes: 8, ..Capacity::NONE };
    assert!(policies.set_capacity(&small) && !policies.set_capacity(&small));
    policies.update(&index, &PolicyDirty::default(), &local);
    assert_eq!(policies.needed(), needed);
    assert_eq!((policies.rows().peers.len(), policies.rows().classes.len()), (0, 7));
    assert!(policies.set_capacity(&needed));
    policies.update(&index, &PolicyDirty::default(), &local);
    let mut afresh = Policies::default();
    afresh.update(&index, &PolicyDirty::everything(), &local);
    assert_eq!(policies.rows(), afresh.rows());
}

/// Without a class, the address is one that no rule admits.
#[test]
fn flows_of_addresses_that_lose_their_class_are_judged_again() {
    let (mut index, local) = many(8);
    let mut policies = Policies::default();
    update(&mut policies, &mut index, &local);
    let capacity = Capacity { policy_classes: 8, policy_peers: 64, ..Capacity::NONE };
    policies.set_capacity(&capacity);
    let steps = policies.update(&index, &PolicyDirty::default(), &local);
    let [step] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!((step.classes.deletes.len(), step.pods.len()), (1, 1));
}

#[test]
fn reason_of_a_pod_whose_table_has_the_id_of_another_one_names_the_selector() {
    let mut index = Index::new(THIS_NODE);
    let addresses = [[10, 2, 0, 1], [10, 2, 0, 2]];
    for (name, address) in ["api", "db"].into_iter().zip(addresses) {
        index.apply(Change::Apply(pod(name, &[("app", name)], address)));
        index.apply(Change::Apply(allow(name, "web")));
    }
    let local = [lease("api", addresses[0]), LocalPod { index: 2, ..lease("db", addresses[1]) }];
    let mut policies = Policies::default();
    policies.tables.identities.mask = 0;
    update(&mut policies, &mut index, &local);
    let mut findings = policies.findings(&index, KnownPods::OfCluster);
    findings.retain(|finding| finding.reason == FindingReason::Collision);
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert!(finding.text.contains("change the podSelector"), "{finding:?}");
}

/// Two pods of one table; which pods of the cluster do not fit changes with every other pod.
#[test]
fn reason_of_a_pod_that_denies_pods_which_do_not_fit_names_none_of_them() {
    let all = LabelSelector::default;
    let peer = || PolicyPeer::Pods { namespaces: Some(all()), pods: all() };
    let findings = |far: u8| {
        let mut index = Index::new(THIS_NODE);
        index.apply(Change::Apply(namespace()));
        index.apply(Change::Apply(pod("db", &[], [10, 2, 0, 1])));
        index.apply(Change::Apply(pod("web", &[], [10, 2, 0, 2])));
        index.apply(Change::Apply(pod("far", &[], [10, 1, 0, far])));
        let matches = PolicyRule { peers: [peer()].into(), ports: [].into() };
        index.apply(Change::Apply(guard(matches)));
        let local =
            [lease("db", [10, 2, 0, 1]), LocalPod { index: 2, ..lease("web", [10, 2, 0, 2]) }];
        let mut policies = Policies::default();
        policies.limits = Limits { classes: 0, ..Limits::default() };
        update(&mut policies, &mut index, &local);
        let mut findings = policies.findings(&index, KnownPods::OfCluster);
        findings.retain(|finding| finding.kind == Kind::Pod);
        findings
    };
    let text = "egress is closed: the address of a possible peer of guard does not fit into the map, \
                and rules must not accept it";
    let found = findings(1);
    let named: Vec<_> = found.iter().map(|f| (f.object.to_string(), &*f.text)).collect();
    assert_eq!(named, [("shop/db".to_owned(), text), ("shop/web".to_owned(), text)]);
    assert_eq!(findings(9), found);
}

#[test]
fn peer_that_does_not_fit_is_not_explained_as_recognized() {
    let mut index = Index::new(THIS_NODE);
    index.apply(Change::Apply(pod("web", &[("app", "web")], [10, 1, 0, 1])));
    index.apply(Change::Apply(pod("db", &[("app", "db")], [10, 2, 0, 1])));
    index.apply(Change::Apply(allow("db", "web")));
    let local = [lease("db", [10, 2, 0, 1])];
    let mut policies = Policies::default();
    policies.limits = Limits { classes: 0, ..Limits::default() };
    update(&mut policies, &mut index, &local);
    let query = Query {
        pod: ObjectName::new("shop", "db"),
        direction: PolicyDirection::Ingress,
        peer: [10, 1, 0, 1].into(),
        protocol: 6,
        port: 80,
    };
    let Explanation { peers, verdict, .. } = policies.explain(&index, &query);
    let Verdict::Denied(near) = verdict else { panic!("{verdict:?}") };
    let text = "shop/db allows all ports from app=web; the client 10.1.0.1 is a pod that does not \
                fit into the map of peers";
    assert_eq!((peers.len(), &*near[0].text), (1, text));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(96), failure_persistence: None, ..Default::default() })]

    #[test]
    fn explanations_of_full_maps_agree_with_the_rows(
        objects in generate::policy_objects(),
        local in generate::leases(),
        limits in (0..40usize, 0..40usize, (0..20usize, 0..60usize), 0..10usize),
    ) {
        let mut index = Index::new(THIS_NODE);
        objects.iter().for_each(|o| index.apply(Change::Apply(o.clone())));
        let mut policies = Policies::default();
        let (peers, ports, (prefixes, memberships), classes) = limits;
        let networks = NetworkLimits { prefixes, memberships };
        policies.limits = Limits { peers, ports, networks, classes };
        update(&mut policies, &mut index, &local);
        let rows = policies.rows();
        for pod in &local {
            let Some(name) = &pod.name else { continue };
            for direction in PolicyDirection::ALL {
                for peer in generate::policy_peers() {
                    for (protocol, port) in generate::policy_probes() {
                        let query = Query { pod: name.clone(), direction, peer, protocol, port };
                        let verdict = policies.explain(&index, &query).verdict;
                        let allowed = matches!(verdict, Verdict::Allowed(_) | Verdict::NotIsolated);
                        let judged = rows.judge(pod, direction, peer, protocol, port);
                        prop_assert_eq!(
                            allowed, judged == Judgement::Pass, "{:?}: {:?}", query, verdict
                        );
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(96), failure_persistence: None, ..Default::default() })]

    #[test]
    fn full_maps_and_collisions_close_and_never_open(
        objects in generate::policy_objects(),
        local in generate::leases(),
        changes in vec(generate::policy_change(), 0..8),
        bits in (0..5u32, 0..5u32, 0..5u32),
        limits in (0..40usize, 0..40usize, (0..20usize, 0..60usize), 0..10usize),
    ) {
        let mut index = Index::new(THIS_NODE);
        objects.iter().for_each(|o| index.apply(Change::Apply(o.clone())));
        let mut policies = Policies::default();
        let (peers, ports, (prefixes, memberships), classes) = limits;
        let networks = NetworkLimits { prefixes, memberships };
        policies.limits = Limits { peers, ports, networks, classes };
        let mask = |bits: u32| if bits == 0 { u64::MAX } else { (1 << bits) - 1 };
        policies.classes.registry.mask = mask(bits.0);
        policies.tables.identities.mask = mask(bits.1);
        policies.tables.sets.mask = mask(bits.2);
        for change in std::iter::once(None).chain(changes.into_iter().map(Some)) {
            change.into_iter().for_each(|change| index.apply(change));
            let mut present = policies.rows().peers;
            for step in update(&mut policies, &mut index, &local) {
                present.extend(step.peers.puts.iter().copied());
                prop_assert!(present.len() <= 2 * peers, "additions precede deletions");
                step.peers.apply(&mut present);
            }
            let mut unlimited = Policies::default();
            unlimited.update(&index, &PolicyDirty::everything(), &local);
            let (rows, unlimited) = (policies.rows(), unlimited.rows());
            prop_assert!(rows.peers.len() <= peers && rows.ports.len() <= ports);
            prop_assert!(rows.classes.len() <= classes);
            for pod in &local {
                for direction in PolicyDirection::ALL {
                    for peer in generate::policy_peers() {
                        for (protocol, port) in generate::policy_probes() {
                            let pass = |rows: &PolicyRows| {
                                let judged = rows.judge(pod, direction, peer, protocol, port);
                                judged == Judgement::Pass
                            };
                            prop_assert!(
                                !pass(&rows) || pass(&unlimited),
                                "{:?} {:?} {} {} {}", pod, direction, peer, protocol, port
                            );
                        }
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(96), failure_persistence: None, ..Default::default() })]

    #[test]
    fn maps_of_the_needed_capacities_hold_every_step(
        objects in generate::policy_objects(),
        local in generate::leases(),
        changes in vec(generate::policy_change(), 0..8),
        small in (0..40u32, 0..40u32),
    ) {
        let mut index = Index::new(THIS_NODE);
        objects.iter().for_each(|o| index.apply(Change::Apply(o.clone())));
        let mut policies = Policies::default();
        let (mut capacity, mut rows) = (Capacity::NONE, PolicyRows::default());
        for change in std::iter::once(None).chain(changes.into_iter().map(Some)) {
            change.into_iter().for_each(|change| index.apply(change));
            let steps = update(&mut policies, &mut index, &local);
            capacity = capacity.max(&policies.needed_by_steps());
            for step in steps {
                let mut peers = rows.peers.clone();
                peers.extend(step.peers.puts.iter().copied());
                prop_assert!(peers.len() <= capacity.policy_peers as usize);
                step.peers.apply(&mut rows.peers);
                step.classes.apply(&mut rows.classes);
            }
            prop_assert!(rows.classes.len() <= capacity.policy_classes as usize);
        }
        // Capacities that are smaller for a time leave nothing behind.
        let (wanted, needed) = (policies.rows(), policies.needed());
        policies.set_capacity(&Capacity { policy_peers: small.0, policy_classes: small.1, ..capacity });
        policies.update(&index, &PolicyDirty::default(), &local);
        prop_assert!(policies.rows().peers.len() <= small.0 as usize / 2);
        prop_assert!(policies.rows().classes.len() <= small.1 as usize);
        policies.set_capacity(&capacity.max(&needed));
        policies.update(&index, &PolicyDirty::default(), &local);
        prop_assert_eq!(policies.rows(), wanted);
    }
}

#[test]
fn open_namespaces_are_as_many_as_fit() {
    let mut index = Index::new(THIS_NODE);
    for n in 0..=map::OPEN_NAMESPACES_MAX {
        let namespace = Namespace { name: format!("n{n}").as_str().into(), labels: [].into() };
        index.apply(Change::Apply(Object::Namespace(namespace)));
    }
    let open = open_namespaces(&index, &[]);
    assert_eq!(open.len(), map::OPEN_NAMESPACES_MAX as usize);
    let mut policies = Policies::default();
    policies.update(&index, &PolicyDirty::everything(), &[]);
    assert_eq!(policies.rows().open_namespaces, open);
}
