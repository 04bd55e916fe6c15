//! Rows of policies and pods.

use sluice_core::PolicyDirty;
use sluice_core::model::Change;

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

fn fake() -> Fake {
    let mut fake = Fake { index: Index::new("n1"), ..Fake::default() };
    for object in folder::parse(OBJECTS.as_bytes()).unwrap() {
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

#[test]
fn list_has_counts_and_a_single_policy_its_rules() {
    let fake = fake();
    let rows = |filter: PolicyFilter| -> Vec<PolicyRow> {
        let page = page(&fake, &Request::Policies(filter), None);
        let row = |row| match row {
            Row::Policy(row) => *row,
            other => panic!("{other:?}"),
        };
        page.rows.into_iter().map(row).collect()
    };
    let all = rows(PolicyFilter::default());
    let names: Vec<_> = all.iter().map(|row| (&*row.policy, row.local_pods)).collect();
    assert_eq!(names, [("shop/all", 1), ("shop/db", 1)]);
    assert!(all.iter().all(|row| row.rules.is_empty() && row.pods.is_none()));
    let text = |text: &str| PolicyFilter { text: Some(text.into()), ..Default::default() };
    assert_eq!(rows(text("p/d")).len(), 1);
    let namespace = PolicyFilter { namespace: Some("lab".into()), ..Default::default() };
    assert_eq!(rows(namespace), []);
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
    let explain = |pod: &str, flow| fake.policies().pod(&PodQuestion { pod: pod.to_owned(), flow });
    let row = explain("shop/db-0", None);
    assert_eq!((row.ingress, row.egress), (vec!["shop/db".into()], vec!["shop/all".into()]));
    assert_eq!((row.rules.len(), row.known, row.verdict), (1, true, None));
    assert!(row.address.is_some());
    let row = explain("lab/web-1", None);
    assert_eq!((row.address, row.ingress.len(), row.egress.len()), (None, 0, 0));
    assert!(!explain("shop/none", None).known);

    let flow = |port| FlowQuestion {
        direction: Direction::Ingress,
        peer: "10.244.2.8".parse().unwrap(),
        protocol: proto::TCP,
        port,
    };
    let verdict = explain("shop/db-0", Some(flow(5432))).verdict.unwrap();
    assert!(verdict.allowed && verdict.peers == ["shop/web-0"], "{verdict:?}");
    let verdict = explain("shop/db-0", Some(flow(80))).verdict.unwrap();
    assert!(!verdict.allowed && verdict.reasons[0].contains("TCP 5432"), "{verdict:?}");
}
