//! Rows of policies and pods.

mod flows;

use ipnet::IpNet;
use sluice_abi::proto;
use sluice_core::model::{Change, IpBlock, Kind, Object, PolicyPeer, PolicyRule};
use sluice_core::policy::LocalPod;
use sluice_core::{Index, PolicyDirty};

use super::*;
use crate::api::Request;
use crate::api::fake::Fake;
use crate::api::respond::{Row, StateView, page};
use crate::source::folder;

const OBJECTS: &str = "
kind: List
items:
- {kind: Namespace, metadata: {name: shop}}
- {kind: Namespace, metadata: {name: lab, labels: {team: lab}}}
- {kind: Pod, metadata: {name: db-0, namespace: shop, labels: {app: db}}, status: {podIP: 10.244.1.7}}
- {kind: Pod, metadata: {name: web-0, namespace: shop, labels: {app: web}}, status: {podIP: 10.244.2.8}}
- {kind: Pod, metadata: {name: web-1, namespace: lab, labels: {app: web}}, status: {podIP: 10.244.2.9}}
- kind: NetworkPolicy
  metadata: {name: db, namespace: shop}
  spec:
    podSelector: {matchLabels: {app: db}}
    ingress:
    - from:
      - {podSelector: {matchLabels: {app: web}}}
      - {namespaceSelector: {matchLabels: {team: lab}}, podSelector: {}}
      - {ipBlock: {cidr: 10.0.0.0/8}}
      ports: [{port: 5432}]
- {kind: NetworkPolicy, metadata: {name: all, namespace: shop}, spec: {podSelector: {}, policyTypes: [Egress]}}
";

/// Policies of each tier, one of which names nodes.
const CLUSTER: &str = "
- kind: Node
  metadata: {name: n1, labels: {control-plane: ''}}
- kind: ClusterNetworkPolicy
  metadata: {name: first}
  spec:
    tier: Admin
    priority: 10
    subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}}
    egress:
    - {name: nodes, action: Pass, to: [{nodes: {matchLabels: {control-plane: ''}}}]}
    - {action: Deny, to: [{networks: [10.0.0.0/8]}, {domainNames: [example.org]}]}
- kind: ClusterNetworkPolicy
  metadata: {name: alpha}
  spec:
    tier: Baseline
    priority: 0
    subject: {namespaces: {}}
    egress: [{action: Accept, to: [{namespaces: {matchLabels: {team: lab}}}]}]
";

fn fake() -> Fake {
    fake_with("")
}

fn fake_with(more: &str) -> Fake {
    let mut fake = Fake { index: Index::new("n1"), ..Fake::default() };
    for object in folder::parse(format!("{OBJECTS}{more}").as_bytes()).unwrap() {
        fake.index.apply(Change::Apply(object));
    }
    fake.local = vec![LocalPod {
        index: 7,
        generation: 1,
        address: "10.244.1.7".parse().unwrap(),
        name: Some(ObjectName::new("shop", "db-0")),
        uid: None,
    }];
    fake.policies.update(&fake.index, &PolicyDirty::everything(), &fake.local);
    fake
}

fn address(text: &str) -> FlowPeer {
    FlowPeer::Address(text.parse().unwrap())
}

/// The row of a pod, as the API sends it.
fn row_of(fake: &Fake, pod: &str, flow: Option<FlowQuery>) -> PodPolicyRow {
    let query = PodQuery { pod: pod.to_owned(), flow };
    match page(fake, &Request::ExplainPod(query), None).rows.pop() {
        Some(Row::Pod(row)) => *row,
        other => panic!("{other:?}"),
    }
}

/// The only verdict of a row.
fn verdict_of(row: PodPolicyRow) -> VerdictRow {
    let flow = row.flow.unwrap();
    assert_eq!((flow.judged.len(), flow.more, &flow.problem), (1, 0, &None), "{flow:?}");
    flow.judged.into_iter().next().unwrap().verdict
}

fn rows_of(fake: &Fake, filter: PolicyFilter) -> Vec<PolicyRow> {
    let page = page(fake, &Request::Policies(filter), None);
    let row = |row| match row {
        Row::Policy(row) => *row,
        other => panic!("{other:?}"),
    };
    page.rows.into_iter().map(row).collect()
}

#[test]
fn list_has_counts_and_a_single_policy_its_rules() {
    let fake = fake();
    let rows = |filter| rows_of(&fake, filter);
    let all = rows(PolicyFilter::default());
    let names: Vec<_> = all.iter().map(|row| (&*row.policy, row.local_pods)).collect();
    assert_eq!(names, [("shop/all", 1), ("shop/db", 1)]);
    assert!(all.iter().all(|row| row.rules.is_empty() && row.pods.is_none()));
    let text = |text: &str| PolicyFilter { text: Some(text.into()), ..Default::default() };
    assert_eq!(rows(text("p/d")).len(), 1);
    let namespace = PolicyFilter { namespace: Some("lab".into()), ..Default::default() };
    assert_eq!(rows(namespace), []);
    for (pod, policies) in [
        ("shop/db-0", &["shop/all", "shop/db"][..]),
        ("shop/web-0", &["shop/all"]),
        ("lab/web-1", &[]),
        ("shop/none", &[]),
    ] {
        let found = rows(PolicyFilter { pod: Some(pod.into()), ..Default::default() });
        let found: Vec<_> = found.iter().map(|row| &*row.policy).collect();
        assert_eq!(found, policies, "{pod}");
    }
    let one = rows(PolicyFilter { name: Some("shop/db".into()), ..Default::default() });
    let [row] = &one[..] else { panic!("{one:?}") };
    assert_eq!((row.pods, row.rule_count, &*row.pod_selector), (Some(1), 1, "app=db"));
    let peers: Vec<_> = row.rules[0].peers.iter().map(|p| (&*p.peer, p.pods)).collect();
    assert_eq!(
        peers,
        [
            ("app=web", Some(1)),
            ("all pods of namespaces with team=lab", Some(1)),
            ("10.0.0.0/8", None)
        ]
    );
    assert_eq!(row.rules[0].ports, ["TCP 5432"]);
}

#[test]
fn pod_is_explained_with_and_without_a_flow() {
    let fake = fake();
    let explain = |pod: &str, flow| row_of(&fake, pod, flow);
    let row = explain("shop/db-0", None);
    assert_eq!((row.ingress, row.egress), (vec!["shop/db".into()], vec!["shop/all".into()]));
    assert_eq!((row.rules.len(), row.known, row.flow), (1, true, None));
    assert!(row.address.is_some());
    let row = explain("lab/web-1", None);
    assert_eq!((row.address, row.ingress.len(), row.egress.len()), (None, 0, 0));
    assert!(!explain("shop/none", None).known);

    let flow = |port| FlowQuery {
        direction: Direction::Ingress,
        peer: address("10.244.2.8"),
        protocol: proto::TCP,
        port,
    };
    let verdict = verdict_of(explain("shop/db-0", Some(flow(5432))));
    assert!(verdict.allowed && verdict.peers == ["shop/web-0"], "{verdict:?}");
    let verdict = verdict_of(explain("shop/db-0", Some(flow(80))));
    assert!(!verdict.allowed && verdict.reasons[0].contains("TCP 5432"), "{verdict:?}");
    let nearest: Vec<_> = verdict.nearest.iter().map(|near| (&*near.policy, near.rule)).collect();
    assert_eq!((verdict.rule, nearest), (None, vec![("shop/db", Some(0))]));
}

/// Its Namespace is not known, and a ClusterNetworkPolicy may select it by that.
#[test]
fn pod_that_is_not_known_is_closed() {
    let by_labels = CLUSTER.replace("namespaces: {}", "namespaces: {matchLabels: {team: a}}");
    let mut fake = fake_with(&by_labels);
    let name = ObjectName::cluster("shop");
    fake.index.apply(Change::Delete(Kind::Namespace, name));
    fake.policies.update(&fake.index, &PolicyDirty::everything(), &fake.local);
    let row = row_of(&fake, "shop/db-0", None);
    for closed in [row.ingress_closed, row.egress_closed] {
        assert!(closed.is_some_and(|reason| reason.contains("Namespace is not known")));
    }
}

#[test]
fn pod_of_the_host_network_is_not_isolated() {
    let host = "
- {kind: Pod, metadata: {name: host, namespace: shop, labels: {app: db}}, spec: {hostNetwork: true},
   status: {podIP: 172.18.0.2}}
";
    let fake = fake_with(&[CLUSTER, host].concat());
    let direction = Direction::Ingress;
    let peer = address("10.9.9.9");
    let flow = Some(FlowQuery { direction, peer, protocol: proto::TCP, port: 80 });
    let row = row_of(&fake, "shop/host", flow);
    assert!(row.host_network && row.ingress.is_empty() && row.egress.is_empty(), "{row:?}");
    let verdict = verdict_of(row);
    assert!(verdict.allowed && verdict.reasons[0].contains("network of its node"), "{verdict:?}");
}

/// More exceptions than the map has networks.
#[test]
fn block_that_does_not_fit_is_marked_and_is_the_reason_of_a_verdict() {
    let mut fake = fake_with(CLUSTER);
    let except =
        (0..1 << 16).map(|n: u32| IpNet::from(IpAddr::from((0x0a00_0000 + n).to_be_bytes())));
    let block = IpBlock { cidr: "10.0.0.0/8".parse().unwrap(), except: except.collect() };
    let peer = PolicyPeer::Block(block);
    let mut policy = fake.index.network_policy(&ObjectName::new("shop", "db")).unwrap().clone();
    policy.ingress = Some([PolicyRule { peers: [peer].into(), ports: [].into() }].into());
    fake.index.apply(Change::Apply(Object::NetworkPolicy(policy)));
    fake.policies.update(&fake.index, &PolicyDirty::everything(), &fake.local);
    let peer = address("10.200.0.1");
    let flow = FlowQuery { direction: Direction::Ingress, peer, protocol: proto::TCP, port: 80 };
    let row = row_of(&fake, "shop/db-0", Some(flow));
    let marks: Vec<_> = row
        .rules
        .iter()
        .map(|rule| (&*rule.policy, rule.peers.iter().any(|peer| peer.does_not_fit)))
        .collect();
    assert_eq!(marks, [("shop/db", true), ("first", false), ("first", false)]);
    let verdict = verdict_of(row);
    let reason = "the block 10.0.0.0/8 does not fit into the map of networks";
    assert!(!verdict.allowed && verdict.reasons[0].ends_with(reason), "{:?}", verdict.allowed);
}

/// As the programs judge: probes of the kubelet pass.
#[test]
fn process_of_the_own_node_reaches_its_pods() {
    let nodes = "
- {kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}}
- {kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}}
";
    let fake = fake_with(nodes);
    let allowed = |direction, peer: &str| {
        let peer = address(peer);
        let flow = Some(FlowQuery { direction, peer, protocol: proto::TCP, port: 80 });
        let row = row_of(&fake, "shop/db-0", flow);
        verdict_of(row).allowed
    };
    assert!(allowed(Direction::Ingress, "172.18.0.2"));
    assert!(!allowed(Direction::Ingress, "172.18.0.3"));
    assert!(!allowed(Direction::Egress, "172.18.0.2"));
}

#[test]
fn flow_is_judged_at_each_end_that_is_a_pod_of_this_node() {
    let fake = fake();
    let judge = |client: &str, server: &str, port| {
        let (client, server) = (client.parse().unwrap(), server.parse().unwrap());
        let row = fake.policies().flow(&FlowEnds { client, server, protocol: proto::TCP, port });
        let end = |end: Option<JudgedEnd>| {
            let JudgedEnd { pod, verdict } = end?;
            assert_eq!(pod, "shop/db-0");
            let rule = verdict.rule.map(|rule| format!("{}[{}]", rule.policy, rule.rule));
            Some((verdict.allowed, rule.unwrap_or_default()))
        };
        (end(row.egress), end(row.ingress))
    };
    let (db, web) = ("10.244.1.7", "10.244.2.8");
    assert_eq!(judge(web, db, 5432), (None, Some((true, "shop/db[0]".into()))));
    assert_eq!(judge(web, db, 80), (None, Some((false, String::new()))));
    assert_eq!(judge(db, web, 5432), (Some((false, String::new())), None));
    assert_eq!(judge(web, "10.244.2.9", 80), (None, None));
    // To itself through a Service.
    let denied = Some((false, String::new()));
    assert_eq!(judge(db, db, 80), (denied.clone(), denied));
}

#[test]
fn cluster_network_policies_are_listed_with_their_order_and_actions() {
    let fake = fake_with(CLUSTER);
    let all = rows_of(&fake, PolicyFilter::default());
    let order: Vec<_> = all.iter().map(|row| (&*row.policy, row.tier, row.priority)).collect();
    assert_eq!(
        order,
        [
            ("alpha", Tier::Baseline, Some(0)),
            ("first", Tier::Admin, Some(10)),
            ("shop/all", Tier::NetworkPolicy, None),
            ("shop/db", Tier::NetworkPolicy, None),
        ]
    );
    let shop = PolicyFilter { namespace: Some("shop".into()), ..Default::default() };
    assert_eq!(rows_of(&fake, shop).len(), 2);
    let one = rows_of(&fake, PolicyFilter { name: Some("first".into()), ..Default::default() });
    let [row] = &one[..] else { panic!("{one:?}") };
    assert_eq!(row.pod_selector, "app=db of all namespaces");
    assert_eq!(row.directions, [Direction::Egress]);
    assert_eq!((row.local_pods, row.pods, row.rule_count), (1, Some(1), 2));
    let [pass, deny] = &row.rules[..] else { panic!("{row:?}") };
    assert_eq!((pass.action, pass.name.as_deref()), (Some(Action::Pass), Some("nodes")));
    assert_eq!((pass.peers[0].nodes, pass.peers[0].pods), (Some(1), None));
    assert_eq!((deny.action, deny.name.as_deref()), (Some(Action::Deny), None));
    let problem = deny.invalid.as_deref();
    assert_eq!(problem, Some("to[1]: domainNames is not supported"));
}

#[test]
fn cluster_network_policies_of_a_pod_are_in_the_order_of_judgement() {
    let fake = fake_with(CLUSTER);
    let flow = FlowQuery {
        direction: Direction::Egress,
        peer: address("10.1.2.3"),
        protocol: proto::TCP,
        port: 80,
    };
    let row = row_of(&fake, "shop/db-0", Some(flow));
    assert_eq!(row.ingress, ["shop/db"]);
    // The Baseline tier is not reached: a NetworkPolicy isolates the pod.
    assert_eq!(row.egress, ["first", "shop/all"]);
    let rules: Vec<_> = row.rules.iter().map(|rule| (&*rule.policy, rule.action)).collect();
    let (pass, deny) = (Some(Action::Pass), Some(Action::Deny));
    assert_eq!(rules, [("shop/db", None), ("first", pass), ("first", deny)]);
    let lab = row_of(&fake, "lab/web-1", None);
    assert_eq!((lab.ingress, lab.egress), (vec![], vec!["alpha".to_owned()]));
    assert_eq!(lab.rules[0].action, Some(Action::Accept));
    let verdict = verdict_of(row);
    assert!(!verdict.allowed && verdict.reasons[0].contains("first"), "{verdict:?}");
    assert_eq!(verdict.rule, Some(RuleRef { policy: "first".to_owned(), rule: 1 }));
    assert_eq!(verdict.nearest, []);
}

/// `policyTypes` switches rules off.
#[test]
fn rules_without_their_policy_type_are_shown_with_a_single_policy() {
    let fake = fake_with(
        "
- kind: NetworkPolicy
  metadata: {name: mistake, namespace: shop}
  spec: {podSelector: {}, policyTypes: [Ingress], egress: [{}]}
",
    );
    let one = PolicyFilter { name: Some("shop/mistake".into()), ..Default::default() };
    let [row] = &rows_of(&fake, one)[..] else { panic!("one row") };
    assert!(row.warnings.len() == 1 && row.warnings[0].contains("policyTypes lacks Egress"));
}
