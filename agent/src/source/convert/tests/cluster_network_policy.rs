//! ClusterNetworkPolicies: all fields, and that nothing that is not understood opens a policy.

use sluice_core::model::*;

use super::read;

const SUBJECT: &str = "subject: {namespaces: {}}";

fn policy(spec: &str) -> ClusterNetworkPolicy {
    let yaml = format!("{{metadata: {{name: p}}, spec: {spec}}}");
    match read(Kind::ClusterNetworkPolicy, &yaml).unwrap() {
        Object::ClusterNetworkPolicy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

/// A valid policy but for its rules.
fn with_rules(rules: &str) -> ClusterNetworkPolicy {
    policy(&format!("{{tier: Admin, priority: 1, {SUBJECT}, {rules}}}"))
}

fn egress(rule: &str) -> ClusterRule {
    let policy = with_rules(&format!("egress: [{rule}]"));
    assert_eq!((policy.ingress.len(), policy.egress.len()), (0, 1), "{rule}");
    policy.egress[0].clone()
}

fn selector(labels: &[(&'static str, &'static str)]) -> LabelSelector {
    labels.iter().map(|(key, value)| Requirement::equals(*key, *value)).collect()
}

fn problem(rule: &ClusterRule) -> &str {
    rule.invalid.as_deref().unwrap_or_default()
}

#[test]
fn fields_of_a_policy_are_converted() {
    let yaml = "
metadata: {name: restricted, labels: {a: b}}
spec:
  tier: Baseline
  priority: 1000
  subject:
    pods: {namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: web}}}
  ingress:
  - name: monitoring
    action: Accept
    from:
    - namespaces: {matchLabels: {team: ops}}
    - pods: {podSelector: {matchLabels: {app: prometheus}}}
    protocols:
    - tcp: {destinationPort: {number: 80}}
    - udp: {destinationPort: {range: {start: 8000, end: 8010}}}
    - sctp: {destinationPort: {number: 65535}}
    - destinationNamedPort: metrics
  egress:
  - action: Deny
    to:
    - networks: [169.254.169.254/32, 'fd00::1/64']
    - nodes: {matchExpressions: [{key: control-plane, operator: Exists}]}
  - action: Pass
    to: [{nodes: {}}]
status: {conditions: []}
";
    let port = |number: i64| Port::new(number).unwrap();
    let pods = |namespaces, pods| PolicyPeer::Pods { namespaces: Some(namespaces), pods };
    let named = |protocol| PolicyPort { protocol, ports: PortSpec::Name("metrics".into()) };
    let block =
        |cidr: &str| PolicyPeer::Block(IpBlock { cidr: cidr.parse().unwrap(), except: [].into() });
    let exists = Requirement { key: "control-plane".into(), operator: Operator::Exists };
    let rule = |action, peers: Vec<PolicyPeer>| ClusterRule {
        name: "".into(),
        action,
        matches: PolicyRule { peers: peers.into(), ports: [].into() },
        invalid: None,
    };
    let expected = ClusterNetworkPolicy {
        name: "restricted".into(),
        tier: Tier::Baseline,
        priority: 1000,
        subject: Subject {
            namespaces: selector(&[("team", "a")]),
            pods: selector(&[("app", "web")]),
            invalid: None,
        },
        ingress: [ClusterRule {
            name: "monitoring".into(),
            action: RuleAction::Accept,
            matches: PolicyRule {
                peers: [
                    pods(selector(&[("team", "ops")]), selector(&[])),
                    pods(selector(&[]), selector(&[("app", "prometheus")])),
                ]
                .into(),
                ports: [
                    PolicyPort { protocol: Protocol::Tcp, ports: PortSpec::Number(port(80)) },
                    PolicyPort {
                        protocol: Protocol::Udp,
                        ports: PortSpec::Range(port(8000), port(8010)),
                    },
                    PolicyPort { protocol: Protocol::Sctp, ports: PortSpec::Number(port(65535)) },
                    named(Protocol::Tcp),
                    named(Protocol::Udp),
                    named(Protocol::Sctp),
                ]
                .into(),
            },
            invalid: None,
        }]
        .into(),
        egress: [
            rule(
                RuleAction::Deny,
                vec![
                    block("169.254.169.254/32"),
                    block("fd00::/64"),
                    PolicyPeer::Nodes([exists].into_iter().collect()),
                ],
            ),
            rule(RuleAction::Pass, vec![PolicyPeer::Nodes(selector(&[]))]),
        ]
        .into(),
        uid: None,
    };
    assert_eq!(
        read(Kind::ClusterNetworkPolicy, yaml).unwrap(),
        Object::ClusterNetworkPolicy(expected)
    );
}

/// CONTRACT 9.4: Accept matches nothing, every other action denies all.
#[test]
fn part_of_a_rule_that_is_not_understood_closes_the_rule() {
    for (part, expected) in [
        // Peers.
        ("to: []", "to: has no entry"),
        ("to: null", "to: has no entry"),
        ("name: x", "to: has no entry"),
        ("to: 3", "to: invalid type"),
        ("to: [{}]", "to[0]: has no field that this version"),
        ("to: [{namespaces: {}}, {future: {}}]", "to[1]: unknown field `future`"),
        ("to: [{namespaces: null}]", "to[0]: has no field"),
        ("to: [{namespaces: {}, pods: {podSelector: {}}}]", "to[0]: has namespaces and pods"),
        ("to: [{namespaces: {matchLabels: {a: ' '}}}]", "to[0]: namespaces: matchLabels"),
        ("to: [{namespaces: {future: 1}}]", "to[0]: unknown field `future`"),
        ("to: [{pods: {namespaceSelector: {}}}]", "to[0]: pods.podSelector: is required"),
        (
            "to: [{pods: {podSelector: {matchExpressions: [{key: a, operator: Near}]}}}]",
            "to[0]: pods.podSelector: matchExpressions[0]",
        ),
        (
            "to: [{pods: {podSelector: {}, namespaceSelector: {matchLabels: {'': a}}}}]",
            "to[0]: pods.namespaceSelector: matchLabels",
        ),
        ("to: [{nodes: {matchLabels: {'': a}}}]", "to[0]: nodes: matchLabels"),
        ("to: [{networks: []}]", "to[0]: networks: has no entry"),
        ("to: [{networks: [10.0.0.0/8, here]}]", "to[0]: networks[1]: \"here\" is not a CIDR"),
        ("to: [{domainNames: [example.org]}]", "to[0]: domainNames is not supported"),
        ("to: [[]]", "to[0]: invalid type"),
        // Ports.
        ("to: [{namespaces: {}}], protocols: []", "protocols: has no entry"),
        ("to: [{namespaces: {}}], protocols: 3", "protocols: invalid type"),
        ("to: [{namespaces: {}}], protocols: [{}]", "protocols[0]: has no field"),
        (
            "to: [{namespaces: {}}], protocols: [{icmp: {}}]",
            "protocols[0]: unknown field `icmp`",
        ),
        (
            "to: [{namespaces: {}}], protocols: [{tcp: {}}]",
            "protocols[0]: tcp.destinationPort: is required",
        ),
        (
            "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {}}}]",
            "protocols[0]: tcp.destinationPort: has none of",
        ),
        (
            "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 1}}, udp:
             {destinationPort: {number: 1}}}]",
            "protocols[0]: has several",
        ),
        (
            "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 1, range: {start: 1,
             end: 2}}}}]",
            "protocols[0]: tcp.destinationPort: has both",
        ),
        (
            "to: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 0}}}]",
            "protocols[0]: udp.destinationPort.number: 0 is not between",
        ),
        (
            "to: [{namespaces: {}}], protocols: [{sctp: {destinationPort: {range: {start: 1, end:
             65536}}}}]",
            "protocols[0]: sctp.destinationPort.range.end: 65536 is not between",
        ),
        (
            "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 3, end: 2}}}}]",
            "protocols[0]: tcp.destinationPort.range: 2 is lower than 3",
        ),
        (
            "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 3}}}}]",
            "protocols[0]: missing field `end`",
        ),
        (
            "to: [{namespaces: {}}], protocols: [{destinationNamedPort: '80'}]",
            "protocols[0]: destinationNamedPort: \"80\"",
        ),
        (
            "to: [{namespaces: {}}, {networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: web}]",
            "destinationNamedPort requires peers that are pods",
        ),
        // The rule itself.
        ("to: [{namespaces: {}}], from: [{namespaces: {}}]", "from is of the other direction"),
        ("to: [{namespaces: {}}], future: {}", "field \"future\" is not known"),
    ] {
        for (word, action) in [
            ("Accept", RuleAction::Accept),
            ("Deny", RuleAction::Deny),
            ("Pass", RuleAction::Pass),
        ] {
            let rule = egress(&format!("{{action: {word}, {part}}}"));
            assert_eq!(rule.action, action, "{part}");
            assert!(problem(&rule).starts_with(expected), "{part}: {}", problem(&rule));
            assert_eq!(rule.matches, PolicyRule::default(), "{part}");
        }
    }
    // One port as a range is not what the API accepts, but not ambiguous either.
    let rule = egress(
        "{action: Pass, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {range: {start: 3, end: \
         3}}}}]}",
    );
    assert_eq!(rule.invalid, None);
}

#[test]
fn peers_outside_the_cluster_are_for_egress_only() {
    for (peer, field) in [
        ("{nodes: {}}", "nodes"),
        ("{networks: [10.0.0.0/8]}", "networks"),
        ("{domainNames: [example.org]}", "domainNames"),
    ] {
        let policy = with_rules(&format!("ingress: [{{action: Accept, from: [{peer}]}}]"));
        let expected = format!("from[0]: {field} is for egress only");
        assert_eq!(problem(&policy.ingress[0]), expected);
    }
}

#[test]
fn action_that_is_not_known_denies() {
    for (rule, expected) in [
        ("{action: Log, to: [{namespaces: {}}]}", "action: \"Log\" is not Accept, Deny or Pass"),
        ("{to: [{namespaces: {}}]}", "action: is required"),
        ("{action: 3, to: [{namespaces: {}}]}", "action: invalid type"),
        ("{action: accept, to: []}", "action: \"accept\""),
        ("3", "the rule cannot be read"),
        ("[]", "the rule cannot be read"),
        ("null", "the rule cannot be read"),
    ] {
        let rule = egress(rule);
        assert_eq!(rule.action, RuleAction::Deny, "{rule:?}");
        assert!(problem(&rule).starts_with(expected), "{rule:?}");
    }
    for list in ["3", "{}", "text"] {
        let policy = with_rules(&format!("ingress: {list}"));
        let [rule] = &*policy.ingress else { panic!("{policy:?}") };
        assert_eq!(rule.action, RuleAction::Deny);
        assert!(problem(rule).starts_with("the list cannot be read"), "{rule:?}");
        assert!(policy.egress.is_empty(), "the other direction is not affected");
    }
    assert!(with_rules("ingress: null, egress: []").ingress.is_empty());
}

const RULES: &str =
    "egress: [{action: Accept, to: [{nodes: {}}]}, {action: Deny, to: [{nodes: {}}]},
                     {action: Pass, to: [{nodes: {}}]}]";

#[test]
fn subject_that_is_not_understood_is_every_pod_without_admitting_anything() {
    for (subject, expected) in [
        ("{}", "has none of"),
        ("null", "is required"),
        ("3", "invalid type"),
        ("{future: {}}", "unknown field"),
        ("{namespaces: {}, pods: {podSelector: {}}}", "has both"),
        ("{namespaces: {matchLabels: {a: ' '}}}", "namespaces: "),
        ("{pods: {}}", "pods.podSelector: is required"),
    ] {
        let policy =
            policy(&format!("{{tier: Baseline, priority: 7, subject: {subject}, {RULES}}}"));
        assert_eq!((policy.tier, policy.priority), (Tier::Baseline, 7));
        let text = policy.subject.invalid.as_deref().unwrap_or_default();
        let expected = format!("subject: {expected}");
        assert!(text.starts_with(&expected), "{subject}: {text}");
        assert!(policy.subject.namespaces.is_empty() && policy.subject.pods.is_empty());
        let [accept, deny, pass] = &*policy.egress else { panic!("{policy:?}") };
        assert!(problem(accept).starts_with(&expected) && problem(pass).starts_with(&expected));
        assert_eq!(deny.invalid, None, "it denies what it did, to every pod");
    }
}

#[test]
fn order_that_is_not_understood_is_the_first_one_with_closed_rules() {
    for (order, expected) in [
        ("priority: 1", "tier: is required"),
        ("tier: Emergency, priority: 1", "tier: \"Emergency\" is not Admin or Baseline"),
        ("tier: [], priority: 1", "tier: invalid type"),
        ("tier: Baseline", "priority: is required"),
        ("tier: Baseline, priority: 1001", "priority: 1001 is not between 0 and 1000"),
        ("tier: Baseline, priority: -1", "priority: -1 is not between"),
        ("tier: Baseline, priority: '1'", "priority: invalid type"),
        ("tier: Baseline, priority: 1, future: 1", "field \"future\" is not known"),
    ] {
        let policy = policy(&format!("{{{order}, {SUBJECT}, {RULES}}}"));
        assert_eq!((policy.tier, policy.priority), (Tier::Admin, 0), "{order}");
        assert_eq!(policy.subject, Subject::default(), "{order}");
        assert_eq!(policy.egress.len(), 3);
        for rule in &policy.egress {
            assert!(problem(rule).starts_with(expected), "{order}: {}", problem(rule));
        }
    }
}

#[test]
fn spec_that_is_not_understood_denies_everything() {
    for spec in ["3", "[]", "text"] {
        let policy = policy(spec);
        assert!(policy.subject.invalid.is_some(), "{spec}");
        for rules in [&policy.ingress, &policy.egress] {
            let [rule] = &**rules else { panic!("{policy:?}") };
            assert_eq!((rule.action, rule.invalid.is_some()), (RuleAction::Deny, true), "{spec}");
        }
    }
    for yaml in ["{spec: {}}", "{metadata: {name: ''}}"] {
        let error = read(Kind::ClusterNetworkPolicy, yaml).unwrap_err();
        assert_eq!(error.to_string(), "ClusterNetworkPolicy without metadata.name");
    }
}
