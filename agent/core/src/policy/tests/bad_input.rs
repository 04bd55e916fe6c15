//! Policies that are larger than any that is meant: all of them hold, and other pods are not affected.

use super::*;

const RULES: u16 = 500;
const EXPRESSIONS: usize = 100;

fn range(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

fn block(cidr: &str, except: &[&str], ports: &[PolicyPort]) -> PolicyRule {
    let block = IpBlock { cidr: range(cidr), except: except.iter().map(|e| range(e)).collect() };
    PolicyRule { peers: [PolicyPeer::Block(block)].into(), ports: ports.into() }
}

fn tcp(port: u16) -> PolicyPort {
    PolicyPort { protocol: Protocol::Tcp, ports: PortSpec::Number(Port::new(port).unwrap()) }
}

/// Rule `n` admits pods with the label `id` = `n` and none of 99 labels with the value "x", to TCP port 1000 + `n`.
/// What the pod may send: everything outside, and DNS to a range with two levels of exceptions.
fn large() -> Object {
    let rule = |n: u16| {
        let without = (1..EXPRESSIONS).map(|k| Requirement {
            key: format!("k{k}").into(),
            operator: Operator::NotIn(["x".into()].into()),
        });
        let id = Operator::In([n.to_string().into()].into());
        let id = Requirement { key: "id".into(), operator: id };
        let pods = without.chain([id]).collect();
        let peer = PolicyPeer::Pods { namespaces: None, pods };
        PolicyRule { peers: [peer].into(), ports: [tcp(1000 + n)].into() }
    };
    let egress = [
        block("0.0.0.0/0", &["10.0.0.0/8", "10.1.0.0/16", "192.168.0.0/16"], &[]),
        block("10.1.0.0/16", &["10.1.2.0/24"], &[tcp(53)]),
        block("10.1.2.0/24", &["10.1.2.128/25"], &[tcp(53)]),
    ];
    Object::NetworkPolicy(NetworkPolicy {
        name: ObjectName::new("shop", "large"),
        pod_selector: LabelSelector::from_iter([Requirement::equals("app", "db")]),
        ingress: Some((0..RULES).map(rule).collect()),
        egress: Some(egress.into()),
        ..NetworkPolicy::default()
    })
}

/// A client with this `id`, and with a label that no rule admits.
fn client(n: u16, refused: Option<usize>) -> Object {
    let [high, low] = n.to_be_bytes();
    let second = if refused.is_some() { 5 } else { 4 };
    let mut client = pod(&format!("client-{n}-{second}"), &[], [10, second, high, low]);
    if let Object::Pod(pod) = &mut client {
        let refused = refused.map(|k| (format!("k{k}"), "x".to_owned()));
        pod.labels = [("id".to_owned(), n.to_string())].into_iter().chain(refused).collect();
    }
    client
}

#[test]
fn five_hundred_rules_with_a_hundred_expressions_and_overlapping_blocks_hold() {
    let mut index = Index::new(THIS_NODE);
    index.apply(Change::Apply(namespace()));
    index.apply(Change::Apply(pod("db", &[("app", "db")], [10, 2, 0, 1])));
    index.apply(Change::Apply(pod("web", &[("app", "web")], [10, 2, 0, 2])));
    index.apply(Change::Apply(allow("web", "db")));
    for n in [0, 7, 250, 499, 500] {
        index.apply(Change::Apply(client(n, None)));
        index.apply(Change::Apply(client(n, Some(usize::from(n % 98) + 1))));
    }
    let db = lease("db", [10, 2, 0, 1]);
    let web = LocalPod { index: 2, ..lease("web", [10, 2, 0, 2]) };
    let local = [db.clone(), web.clone()];
    let mut policies = Policies::default();
    update(&mut policies, &mut index, &local);
    let judged = |rows: &PolicyRows, pod: &LocalPod, direction, peer: [u8; 4], port| {
        rows.judge(pod, direction, peer.into(), Protocol::Tcp.number(), port) == Judgement::Pass
    };
    let of_web = |rows: &PolicyRows| {
        let peers = [[10, 2, 0, 1], [10, 4, 0, 7], [192, 0, 2, 1]];
        peers.map(|peer| {
            PolicyDirection::ALL.map(|direction| judged(rows, &web, direction, peer, 1007))
        })
    };
    let before = policies.rows();
    assert_eq!(of_web(&before), [[true, true], [true, false], [true, false]]);

    index.apply(Change::Apply(large()));
    let steps = update(&mut policies, &mut index, &local);
    let rows = policies.rows();
    assert_eq!((of_web(&rows), rows.pods[&2]), (of_web(&before), before.pods[&2]));
    assert!(steps.iter().all(|step| step.pods.iter().all(|(index, _)| *index != 2)));
    for n in [0u16, 7, 250, 499, 500] {
        let [high, low] = n.to_be_bytes();
        for port in [0, 7, 250, 499, 500].map(|port: u16| 1000 + port) {
            let admitted = n < RULES && port == 1000 + n;
            let from = |second| {
                judged(&rows, &db, PolicyDirection::Ingress, [10, second, high, low], port)
            };
            assert_eq!((from(4), from(5)), (admitted, false), "{n} to {port}");
        }
    }
    for (peer, port, admitted) in [
        ([8, 8, 8, 8], 1, true),
        ([192, 168, 1, 1], 1, false),
        ([192, 169, 0, 0], 1, true),
        ([10, 9, 9, 9], 53, false),
        ([10, 1, 3, 1], 53, true),
        ([10, 1, 3, 1], 54, false),
        ([10, 1, 2, 5], 53, true),
        ([10, 1, 2, 5], 54, false),
        ([10, 1, 2, 200], 53, false),
    ] {
        let found = judged(&rows, &db, PolicyDirection::Egress, peer, port);
        assert_eq!(found, admitted, "to {peer:?}, port {port}");
    }
}
