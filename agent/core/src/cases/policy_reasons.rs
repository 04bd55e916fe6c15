//! Reasons of verdicts, and problems of policies.

use sluice_abi::{PolicyDirection, proto};

use super::policy_notation::{World, cluster, cluster_rule, name, rule};
use crate::model::RuleAction::{Accept, Deny, Pass};
use crate::model::Tier::{Admin, Baseline};
use crate::model::{ClusterRule, Kind, Object, ObjectName, PolicyPeer, PortSpec};
use crate::policy::{Explanation, FindingReason, KnownPods, Query, RuleName, Verdict, check_all};

fn world() -> World {
    World::new()
        .pod("shop/web", "role=web", "10.244.0.2", &["http=TCP 8080"])
        .pod("shop/api", "role=api,tier=back", "10.244.0.3", &[])
        .pod("shop/db", "role=db", "10.244.0.4", &["sql=TCP 5432"])
        .pod("test/other", "role=api", "10.244.0.5", &[])
}

fn explain(
    world: &World,
    pod: &str,
    direction: PolicyDirection,
    peer: &str,
    port: u16,
) -> Explanation {
    let peer = world.address(peer);
    let query = Query { pod: name(pod), direction, peer, protocol: proto::TCP, port };
    world.policies().explain(&world.index(), &query)
}

/// The texts for a flow to db that is denied.
fn denied(world: &World, client: &str, port: u16) -> Vec<String> {
    match explain(world, "shop/db", PolicyDirection::Ingress, client, port).verdict {
        Verdict::Denied(near) => near.into_iter().map(|miss| miss.text).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn denied_flow_names_the_rule_that_is_nearest() {
    let world = world()
        .policy("shop/db-ingress", "role=db", Some(&[rule(&["role=api"], &["TCP 5432"])]), None)
        .policy("shop/deny", "*", Some(&[]), None)
        .policy("shop/out", "role=db", None, Some(&[]));
    let explained = explain(&world, "shop/db", PolicyDirection::Ingress, "shop/web", 5432);
    assert_eq!(explained.isolating, [name("shop/db-ingress"), name("shop/deny")]);
    assert_eq!(explained.peers, [name("shop/web")]);
    let label = "shop/db-ingress allows TCP 5432 from role=api; the client has role=web";
    assert_eq!(denied(&world, "shop/web", 5432), [label, "shop/deny allows no ingress"]);
    for (client, port, text) in [
        ("shop/api", 80, "shop/db-ingress allows TCP 5432 from role=api; the flow is TCP 80"),
        (
            "shop/web",
            80,
            "shop/db-ingress allows TCP 5432 from role=api; the client has role=web, the flow is TCP 80",
        ),
        (
            "test/other",
            5432,
            "shop/db-ingress allows TCP 5432 from role=api; the client is in namespace test",
        ),
        (
            "1.1.1.1",
            5432,
            "shop/db-ingress allows TCP 5432 from role=api; the client 1.1.1.1 is not a pod",
        ),
        (
            "10.244.7.7",
            5432,
            "shop/db-ingress allows TCP 5432 from role=api; the client 10.244.7.7 is a pod that is not known",
        ),
    ] {
        assert_eq!(denied(&world, client, port)[0], text, "{client} {port}");
    }
}

#[test]
fn nearest_rule_precedes_whatever_its_policy() {
    let rules = [
        rule(&["10.0.0.0/8-10.244.0.0/16", "192.0.2.0/24"], &[]),
        rule(&["@stage=live/role=web"], &[]),
        rule(&["role=api,tier=back"], &[]),
        rule(&["role=web,tier"], &[]),
        rule(&[], &["TCP 1-9", "UDP"]),
    ];
    let world = world().policy("shop/p", "role=db", Some(&rules), None);
    assert_eq!(
        denied(&world, "shop/web", 80),
        [
            "shop/p allows TCP 1-9, all UDP ports from anyone; the flow is TCP 80",
            "shop/p allows all ports from role=web,tier; the client has no label tier",
            "shop/p allows all ports from role=api,tier=back; the client has role=web, no label tier",
            "shop/p allows all ports from 10.0.0.0/8 except 10.244.0.0/16 and 1 more; the client has \
             10.244.0.2 in the exception 10.244.0.0/16",
            "shop/p allows all ports from role=web of namespaces with stage=live; the client is in \
             namespace shop with no label stage",
        ]
    );
}

#[test]
fn allowed_flow_names_its_rule() {
    let rules = [rule(&["role=web"], &[]), rule(&["role=api"], &["TCP sql"])];
    let world = world().policy("shop/p", "role=db", Some(&rules), None);
    let verdict = |pod, direction, peer| explain(&world, pod, direction, peer, 5432).verdict;
    let rule = RuleName { policy: name("shop/p"), rule: 1 };
    let ingress = PolicyDirection::Ingress;
    assert_eq!(verdict("shop/db", ingress, "shop/api"), Verdict::Allowed(rule));
    let egress = PolicyDirection::Egress;
    assert_eq!(verdict("shop/db", egress, "shop/api"), Verdict::NotIsolated);
    assert_eq!(verdict("shop/gone", ingress, "shop/api"), Verdict::Pending);
    assert_eq!(verdict("test/gone", ingress, "shop/api"), Verdict::NotIsolated);
}

#[test]
fn problems_of_a_policy_are_found() {
    let mut world = world()
        .policy(
            "shop/p",
            "role=db",
            Some(&[rule(&["role=api"], &["TCP http", "TCP sql", "TCP 9-8"])]),
            Some(&[
                rule(&["@*/role=api"], &["UDP http"]),
                rule(&["@*/role=none"], &["TCP sql"]),
                rule(&[], &["TCP http"]),
            ]),
        )
        .policy("shop/unused", "role=none", Some(&[]), None);
    if let Some(Object::NetworkPolicy(policy)) = world.objects.iter_mut().rev().nth(1)
        && let Some(rule) = policy.ingress.as_mut().and_then(|rules| rules.first_mut())
    {
        rule.peers = [PolicyPeer::Invalid("ipBlock without cidr".into())].into();
        rule.ports[1].ports = PortSpec::Invalid("unknown protocol".into());
    }
    let found = check_all(&world.objects, KnownPods::OfCluster);
    let found: Vec<_> = found.iter().map(|f| (f.reason, f.text.as_str())).collect();
    let none = FindingReason::NoPod;
    assert_eq!(
        found,
        [
            (
                FindingReason::UndefinedPort,
                "ingress[0].ports[0]: no selected pod has a TCP port with the name http: it matches nothing"
            ),
            (
                FindingReason::InvalidPart,
                "ingress[0].ports[1]: unknown protocol: it matches nothing"
            ),
            (
                FindingReason::EmptyPortRange,
                "ingress[0].ports[2]: endPort 8 is lower than port 9: it matches nothing"
            ),
            (
                FindingReason::InvalidPart,
                "ingress[0].from[0]: ipBlock without cidr: it matches nothing"
            ),
            (
                FindingReason::UndefinedPort,
                "egress[0].ports[0]: no peer has a UDP port with the name http: it matches nothing"
            ),
            (none, "egress[1].to[0] matches no pod"),
            (none, "podSelector matches no pod: the policy has no effect"),
        ]
    );
    // The agent reports the problems, not the warnings.
    let mut policies = world.policies();
    let reported = policies.findings(&world.index(), KnownPods::OfCluster);
    assert_eq!(reported.len(), 5);
    assert!(reported.iter().all(|finding| !finding.reason.is_warning()));
}

/// The names of ports are those of the pods that the rule selects, whatever other pods have.
#[test]
fn port_name_that_no_peer_has_is_found() {
    let rules = [
        rule(&["role=api"], &["TCP sql"]),
        rule(&["role=db"], &["TCP sql"]),
        rule(&["role=api", "role=db"], &["TCP sql"]),
        rule(&["198.51.100.0/24"], &["TCP sql"]),
        rule(&["10.0.0.0/8"], &["TCP sql"]),
        rule(&["10.0.0.0/8"], &["TCP http2"]),
        rule(&["role=none"], &["TCP sql"]),
    ];
    let sql = ["TCP sql", "UDP sql", "SCTP sql"];
    let of_cluster = ["nodes *", "@*/role=api", "@*/role=db", "@*/role=none"];
    let of_cluster = of_cluster.map(|peer| cluster_rule(Accept, &[peer], &sql));
    let world = world().policy("shop/out", "role=web", None, Some(&rules)).cluster_policy(cluster(
        "guard",
        (Admin, 1),
        "@*/*",
        &[],
        &of_cluster,
    ));
    let mut policies = world.policies();
    let found = policies.findings(&world.index(), KnownPods::OfCluster);
    let mut found: Vec<String> = found
        .iter()
        .map(|finding| {
            assert_eq!(finding.reason, FindingReason::UndefinedPort);
            format!("{} {}", finding.object, finding.text.split(':').next().unwrap_or_default())
        })
        .collect();
    found.sort_unstable();
    let expected = ["0", "3", "5"].map(|at| format!("shop/out egress[{at}].ports[0]"));
    let of_cluster = ["0", "1"].map(|at| format!("guard egress[{at}].protocols"));
    assert_eq!(found, [of_cluster.to_vec(), expected.to_vec()].concat());
}

/// `policyTypes` without a direction switches its rules off.
#[test]
fn rules_without_their_policy_type_are_warnings() {
    let mut world = world().policy("shop/p", "role=db", Some(&[]), None);
    let Some(Object::NetworkPolicy(policy)) = world.objects.last_mut() else { panic!("a policy") };
    policy.unused_rules[PolicyDirection::Egress as usize] = 1;
    let found = check_all(&world.objects, KnownPods::OfCluster);
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!(finding.reason.name(), "RulesWithoutPolicyType");
    assert_eq!(finding.text, "egress has rules, but policyTypes lacks Egress: they have no effect");
    assert!(finding.reason.is_warning());
    assert!(world.policies().findings(&world.index(), KnownPods::OfCluster).is_empty());
}

#[test]
fn rule_of_a_cluster_policy_that_decides_is_named() {
    let rules = [
        cluster_rule(Pass, &["@*/role=api"], &["TCP 5432"]),
        ClusterRule { name: "no-web".into(), ..cluster_rule(Deny, &["@name=shop/role=web"], &[]) },
        cluster_rule(Accept, &["@*/*"], &["TCP 80"]),
    ];
    let base = [cluster_rule(Deny, &["10.244.0.0/16"], &["TCP 22", "UDP"])];
    let world = world()
        .cluster_policy(cluster("guard", (Admin, 1), "@*/role=db", &rules, &[]))
        .cluster_policy(cluster("floor", (Baseline, 1), "@*/role=db", &base, &[]));
    let of = |world: &World, client: &str, port| {
        explain(world, "shop/db", PolicyDirection::Ingress, client, port)
    };
    let rule_of = |policy: &str, rule| RuleName { policy: ObjectName::cluster(policy), rule };
    let denied_by = |world: &World, client: &str, port| match of(world, client, port).verdict {
        Verdict::DeniedBy(refusal) => (refusal.rule, refusal.text),
        other => panic!("{other:?}"),
    };
    let text = "guard (no-web) denies all ports from role=web of namespaces with name=shop";
    assert_eq!(denied_by(&world, "shop/web", 80), (rule_of("guard", 1), text.to_owned()));
    let text = "floor denies TCP 22, all UDP ports from 10.244.0.0/16";
    assert_eq!(denied_by(&world, "shop/api", 22), (rule_of("floor", 0), text.to_owned()));
    let text = "guard (no-web) denies all ports from role=web of namespaces with name=shop; 10.244.7.7 may be such a peer, not everything is known of it";
    assert_eq!(denied_by(&world, "10.244.7.7", 80), (rule_of("guard", 1), text.to_owned()));
    let names = ["guard", "floor"].map(ObjectName::cluster);
    let allowed = of(&world, "shop/api", 80);
    assert_eq!(
        (allowed.isolating, allowed.verdict),
        (names.to_vec(), Verdict::Allowed(rule_of("guard", 2)))
    );
    assert_eq!(of(&world, "shop/api", 5432).verdict, Verdict::NotIsolated);
    // Isolated: NetworkPolicies decide after the tier Admin, and Baseline does not.
    let world = world.policy("shop/db", "role=db", Some(&[rule(&["role=api"], &["TCP 22"])]), None);
    let own = RuleName { policy: name("shop/db"), rule: 0 };
    let allowed = of(&world, "shop/api", 22);
    let names = vec![ObjectName::cluster("guard"), name("shop/db")];
    assert_eq!((allowed.isolating, allowed.verdict), (names, Verdict::Allowed(own)));
    assert!(matches!(of(&world, "shop/api", 5432).verdict, Verdict::Denied(_)));
    assert_eq!(denied_by(&world, "shop/web", 22).0, rule_of("guard", 1));
}

#[test]
fn problems_of_cluster_policies_name_field_and_effect() {
    let rules = [
        ClusterRule {
            invalid: Some("from[0] is empty".into()),
            ..cluster_rule(Accept, &["@*"], &[])
        },
        ClusterRule { invalid: Some("action \"Log\"".into()), ..cluster_rule(Deny, &["@*"], &[]) },
        cluster_rule(Deny, &["@*/role=none"], &["TCP web", "UDP web", "SCTP web"]),
        cluster_rule(Deny, &["@*/*"], &["TCP sql", "UDP sql", "SCTP sql"]),
    ];
    let mut unused = cluster("unused", (Admin, 1), "@name=none/*", &[], &[]);
    unused.subject.invalid = Some("has no field that is known".into());
    let world = world()
        .cluster_policy(cluster("guard", (Admin, 1), "@*/role=db", &rules, &[]))
        .cluster_policy(unused);
    let found = check_all(&world.objects, KnownPods::OfCluster);
    let found: Vec<_> =
        found.iter().map(|f| (f.kind, f.object.to_string(), f.reason, f.text.as_str())).collect();
    let of = |name: &str, reason, text| (Kind::ClusterNetworkPolicy, name.to_owned(), reason, text);
    let expected = [
        of(
            "guard",
            FindingReason::InvalidPart,
            "ingress[0]: from[0] is empty: the rule matches nothing",
        ),
        of(
            "guard",
            FindingReason::InvalidPart,
            "ingress[1]: action \"Log\": the rule denies everything",
        ),
        of(
            "guard",
            FindingReason::UndefinedPort,
            "ingress[2].protocols: no selected pod has a port with the name web: it matches nothing",
        ),
        of("guard", FindingReason::NoPod, "ingress[2].from[0] matches no pod"),
        of(
            "unused",
            FindingReason::InvalidPart,
            "subject: has no field that is known: every pod is selected, Accept rules match nothing, \
             Pass rules deny everything",
        ),
        of("unused", FindingReason::NoPod, "subject matches no pod: the policy has no effect"),
    ];
    assert_eq!(found, expected);
}
