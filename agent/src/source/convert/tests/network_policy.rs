//! NetworkPolicies: defaults, all fields, and that nothing that is not understood opens a policy.

use sluice_abi::PolicyDirection;
use sluice_core::model::*;

use super::read;

/// A policy `default/p` with this `spec`.
fn policy(spec: &str) -> NetworkPolicy {
    let yaml = format!("{{metadata: {{name: p}}, spec: {spec}}}");
    match read(Kind::NetworkPolicy, &yaml).unwrap() {
        Object::NetworkPolicy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

fn selector(labels: &[(&'static str, &'static str)]) -> LabelSelector {
    labels.iter().map(|(key, value)| Requirement::equals(*key, *value)).collect()
}

/// What is not valid in rules, and whether they have nothing but that.
fn problems(rules: &Option<Box<[PolicyRule]>>) -> Vec<String> {
    let mut problems = Vec::new();
    for rule in rules.iter().flatten() {
        for peer in &rule.peers {
            problems.extend(match peer {
                PolicyPeer::Invalid(problem) => Some(problem.to_string()),
                _ => None,
            });
        }
        for port in &rule.ports {
            problems.extend(match &port.ports {
                PortSpec::Invalid(problem) => Some(problem.to_string()),
                _ => None,
            });
        }
    }
    problems
}

#[test]
fn fields_of_a_policy_are_converted() {
    let yaml = "
metadata: {name: db, namespace: shop, annotations: {a: b}}
spec:
  podSelector: {matchLabels: {role: db}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - podSelector: {matchLabels: {role: api}}
    - namespaceSelector: {matchLabels: {team: ops}}
      podSelector: {}
    - namespaceSelector: {}
    ports:
    - {port: 5432}
    - {protocol: UDP, port: 8000, endPort: 8010}
  egress:
  - to:
    - ipBlock: {cidr: 10.1.2.3/8, except: [10.1.0.0/16, 10.2.3.4/32]}
    ports:
    - {protocol: SCTP}
    - {port: http}
    - {}
  - {}
status: {}
";
    let port = |number: i64| Port::new(number).unwrap();
    let pods = |namespaces, pods| PolicyPeer::Pods { namespaces, pods };
    let expected = NetworkPolicy {
        name: ObjectName::new("shop", "db"),
        pod_selector: selector(&[("role", "db")]),
        ingress: Some(
            [PolicyRule {
                peers: [
                    pods(None, selector(&[("role", "api")])),
                    pods(Some(selector(&[("team", "ops")])), selector(&[])),
                    pods(Some(selector(&[])), selector(&[])),
                ]
                .into(),
                ports: [
                    PolicyPort { protocol: Protocol::Tcp, ports: PortSpec::Number(port(5432)) },
                    PolicyPort {
                        protocol: Protocol::Udp,
                        ports: PortSpec::Range(port(8000), port(8010)),
                    },
                ]
                .into(),
            }]
            .into(),
        ),
        egress: Some(
            [
                PolicyRule {
                    peers: [PolicyPeer::Block(IpBlock {
                        cidr: "10.0.0.0/8".parse().unwrap(),
                        except: ["10.1.0.0/16", "10.2.3.4/32"].map(|c| c.parse().unwrap()).into(),
                    })]
                    .into(),
                    ports: [
                        PolicyPort { protocol: Protocol::Sctp, ports: PortSpec::All },
                        PolicyPort {
                            protocol: Protocol::Tcp,
                            ports: PortSpec::Name("http".into()),
                        },
                        PolicyPort { protocol: Protocol::Tcp, ports: PortSpec::All },
                    ]
                    .into(),
                },
                PolicyRule::default(),
            ]
            .into(),
        ),
        unused_rules: [0, 0],
        uid: None,
    };
    assert_eq!(read(Kind::NetworkPolicy, yaml).unwrap(), Object::NetworkPolicy(expected));
}

#[test]
fn every_operator_of_a_selector_is_converted() {
    let policy = policy(
        "{podSelector: {matchExpressions: [{key: a, operator: In, values: [x, y]}, {key: b/c,
         operator: NotIn, values: ['']}, {key: d, operator: Exists}, {key: e, operator: DoesNotExist,
         values: []}]}}",
    );
    let requirement = |key: &'static str, operator| Requirement { key: key.into(), operator };
    let expected: LabelSelector = [
        requirement("a", Operator::In(["x".into(), "y".into()].into())),
        requirement("b/c", Operator::NotIn(["".into()].into())),
        requirement("d", Operator::Exists),
        requirement("e", Operator::DoesNotExist),
    ]
    .into_iter()
    .collect();
    assert_eq!(policy.pod_selector, expected);
}

/// CONTRACT 8.2 and 8.3.
#[test]
fn isolated_directions_and_absent_lists_have_the_defaults_of_the_api() {
    let none = Some(0);
    for (spec, ingress, egress) in [
        ("{}", none, None),
        ("null", none, None),
        ("{podSelector: {}, ingress: null, egress: null}", none, None),
        ("{ingress: []}", none, None),
        ("{egress: []}", none, None),
        ("{egress: [{}]}", none, Some(1)),
        ("{ingress: [{}, {}]}", Some(2), None),
        ("{policyTypes: [], egress: [{}]}", none, Some(1)),
        ("{policyTypes: null}", none, None),
        ("{policyTypes: [Egress]}", None, none),
        ("{policyTypes: [Ingress], egress: [{}]}", none, None),
        ("{policyTypes: [Egress], ingress: [{}]}", None, none),
        ("{policyTypes: [Egress, Ingress]}", none, none),
    ] {
        let policy = policy(spec);
        let count = |rules: &Option<Box<[PolicyRule]>>| rules.as_ref().map(|rules| rules.len());
        assert_eq!((count(&policy.ingress), count(&policy.egress)), (ingress, egress), "{spec}");
        assert!(policy.pod_selector.is_empty());
    }
    // Rules without their type are counted.
    for (spec, [egress, ingress]) in [
        ("{policyTypes: [Ingress], egress: [{}, {}], ingress: [{}]}", [2, 0]),
        ("{policyTypes: [Egress], ingress: [{}]}", [0, 1]),
        ("{policyTypes: [Egress, Ingress], ingress: [{}], egress: [{}]}", [0, 0]),
        ("{ingress: [{}], egress: [{}]}", [0, 0]),
    ] {
        let unused = policy(spec).unused_rules;
        let of = |direction| unused[direction as usize];
        let found = [PolicyDirection::Egress, PolicyDirection::Ingress].map(of);
        assert_eq!(found, [egress, ingress], "{spec}");
    }
    let policy = policy("{ingress: [{from: null, ports: null}, {from: [], ports: []}]}");
    assert_eq!(policy.ingress.unwrap()[..], [PolicyRule::default(), PolicyRule::default()]);
}

#[test]
fn part_that_is_not_valid_matches_nothing_and_the_others_stay() {
    for (list, problem) in [
        ("from: [{}]", "has none of"),
        ("from: [null]", "cannot be read ("),
        ("from: 3", "cannot be read ("),
        ("from: [{podSelector: {}, future: 1}]", "unknown field `future`"),
        ("from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]", "cannot be combined"),
        ("from: [{ipBlock: {cidr: 10.0.0.0}}]", "ipBlock.cidr: \"10.0.0.0\" is not a CIDR"),
        ("from: [{ipBlock: {}}]", "ipBlock.cidr: \"\" is not a CIDR"),
        ("from: [{ipBlock: {cidr: 10.0.0.0/33}}]", "is not a CIDR"),
        (
            "from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]",
            "ipBlock.except[0]: 10.0.0.0/8 is not a part of 10.0.0.0/8",
        ),
        ("from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]", "is not a part of"),
        ("from: [{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/16']}}]", "is not a part of"),
        ("from: [{ipBlock: {cidr: 10.0.0.0/8, except: [x]}}]", "except[0]: \"x\" is not a CIDR"),
        (
            "from: [{podSelector: {matchExpressions: [{key: a, operator: Is, values: [b]}]}}]",
            "podSelector: matchExpressions[0]: operator \"Is\" is not In, NotIn",
        ),
        (
            "from: [{podSelector: {matchExpressions: [{key: a, operator: NotIn}]}}]",
            "operator NotIn requires values",
        ),
        (
            "from: [{namespaceSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}]",
            "namespaceSelector: matchExpressions[0]: operator Exists has no values",
        ),
        (
            "from: [{podSelector: {matchExpressions: [{operator: DoesNotExist}]}}]",
            "\"\" cannot be the key of a label",
        ),
        (
            "from: [{podSelector: {matchExpressions: [{key: a, operator: NotIn, values: ['b c']}]}}]",
            "\"b c\" cannot be the value of a label",
        ),
        ("from: [{podSelector: {matchLabels: {a: -b}}}]", "\"-b\" cannot be the value"),
        ("from: [{podSelector: {matchLabels: {a: 1}}}]", "cannot be read ("),
        ("from: [{podSelector: []}]", "cannot be read ("),
        ("from: [{podSelector: {matchExpressions: [[]]}}]", "cannot be read ("),
        ("from: [[]]", "cannot be read ("),
        ("ports: [[]]", "cannot be read ("),
        ("ports: [{protocol: ICMP}]", "protocol: \"ICMP\" is not TCP, UDP or SCTP"),
        ("ports: [{port: 0}]", "port: 0 is not between 1 and 65535"),
        ("ports: [{port: 65536}]", "port: 65536 is not between"),
        ("ports: [{port: '80'}]", "port: \"80\" is not the name of a port"),
        ("ports: [{port: ''}]", "is not the name of a port"),
        ("ports: [{port: 1.5}]", "cannot be read ("),
        ("ports: [{port: http, endPort: 90}]", "endPort: requires a port that is a number"),
        ("ports: [{endPort: 90}]", "endPort: requires a port that is a number"),
        ("ports: [{port: 80, endPort: 65536}]", "endPort: 65536 is not between"),
        ("ports: [{port: 80, future: 1}]", "unknown field `future`"),
        ("future: 1", "unknown field `future`"),
    ] {
        // A valid rule stays as it is, and the direction isolated.
        let spec = format!("{{ingress: [{{{list}}}, {{ports: [{{port: 443}}]}}]}}");
        let policy = policy(&spec);
        let found = problems(&policy.ingress);
        assert_eq!(found.len(), 1, "{list}: {policy:?}");
        assert!(found[0].contains(problem), "{found:?}");
        let rules = policy.ingress.unwrap();
        assert_eq!(rules.len(), 2);
        assert!(!rules[0].peers.is_empty() || !rules[0].ports.is_empty(), "{list} admits all");
        assert_eq!(problems(&Some([rules[1].clone()].into())), Vec::<String>::new());
    }
    // Of a list, the other entries stay.
    let policy = policy("{egress: [{to: [{podSelector: {}}, {}]}], policyTypes: [Egress]}");
    let rules = policy.egress.unwrap();
    assert_eq!(rules[0].peers.len(), 2);
    let pods = LabelSelector::default();
    assert_eq!(rules[0].peers[0], PolicyPeer::Pods { namespaces: None, pods });
    assert!(matches!(&rules[0].peers[1], PolicyPeer::Invalid(p) if p.starts_with("has none of")));
}

#[test]
fn range_that_ends_before_it_begins_is_kept_as_written() {
    let policy = policy("{ingress: [{ports: [{port: 90, endPort: 80}]}]}");
    let range = PortSpec::Range(Port::new(90).unwrap(), Port::new(80).unwrap());
    assert_eq!(policy.ingress.unwrap()[0].ports[0].ports, range);
}

#[test]
fn policy_that_cannot_be_read_isolates_its_namespace_and_admits_nothing() {
    for (spec, ingress, egress) in [
        ("3", Some(1), Some(1)),
        ("[]", Some(1), Some(1)),
        ("{future: {}, ingress: [{}]}", Some(1), Some(1)),
        ("{1: 2}", Some(1), Some(1)),
        // The pods are not known.
        ("{podSelector: 3, ingress: [{}]}", Some(1), None),
        ("{podSelector: {matchLabels: {a: ' '}}, egress: [{}, {}]}", Some(1), Some(1)),
        ("{podSelector: {future: 1}, policyTypes: [Egress]}", None, Some(1)),
        // The directions are not known.
        ("{policyTypes: 3}", Some(1), Some(0)),
        ("{policyTypes: [ingress]}", Some(1), Some(0)),
        // Rules are not known.
        ("{ingress: 3}", Some(1), None),
        ("{ingress: [[]]}", Some(1), None),
        ("{podSelector: []}", Some(1), None),
        ("{egress: {}}", Some(0), Some(1)),
    ] {
        let policy = policy(spec);
        let count = |rules: &Option<Box<[PolicyRule]>>| rules.as_ref().map(|rules| rules.len());
        assert_eq!((count(&policy.ingress), count(&policy.egress)), (ingress, egress), "{spec}");
        assert!(policy.pod_selector.is_empty(), "{spec}");
        for rules in [&policy.ingress, &policy.egress] {
            assert_eq!(problems(rules).len(), count(rules).unwrap_or(0), "{spec}");
        }
    }
}

#[test]
fn policy_without_a_name_is_rejected() {
    assert_eq!(
        read(Kind::NetworkPolicy, "{spec: {}}"),
        Err(super::ConvertError::NoName("NetworkPolicy"))
    );
    assert!(read(Kind::NetworkPolicy, "{metadata: 3}").is_err());
}

#[test]
fn namespace_has_the_label_with_its_name() {
    for labels in ["", ", labels: {team: a, kubernetes.io/metadata.name: forged}"] {
        let yaml = format!("{{metadata: {{name: shop{labels}}}}}");
        let Object::Namespace(namespace) = read(Kind::Namespace, &yaml).unwrap() else {
            panic!("kind")
        };
        assert_eq!(namespace.labels["kubernetes.io/metadata.name"], "shop");
    }
}
