//! The maps of policies: order of writes, failures, restarts, repairs.

mod drops;
mod findings;
mod growth;
mod growth_of_steps;
mod maps;
mod open_namespaces;
mod writes;

use std::time::Duration;

use sluice_abi::{PodPolicy, PolicyDirection, proto};
use sluice_core::model::{Change, Kind, Object};
use sluice_core::policy::Judgement;
use sluice_core::table::{
    OpenNamespaces, PodPolicies, PolicyClasses, PolicyEpochs, PolicyPeers, PortSets, Table,
};

use self::maps::View;
use crate::conditions::{Concern, Status};
use crate::event::Event;
use crate::harness::{Harness, delete, host, lists, pod};
use crate::kernel::fake::FakeKernel;
use crate::source::folder;

/// Time until the next resync, and until every row was compared.
const RESYNC: Duration = Duration::from_secs(31);
const COMPARISON: Duration = Duration::from_secs(330);

/// Pods of this node have the numbers 7 and 8, `far` has the address 10.244.2.9.
const OBJECTS: &str = "
- {kind: Namespace, metadata: {name: shop}}
- {kind: Namespace, metadata: {name: lab, labels: {team: lab}}}
- {kind: Pod, metadata: {name: pod-7, namespace: shop, labels: {app: db}}, spec: {nodeName: n1},
   status: {podIP: 10.244.1.7}}
- {kind: Pod, metadata: {name: pod-8, namespace: shop, labels: {app: web}}, spec: {nodeName: n1},
   status: {podIP: 10.244.1.8}}
- {kind: Pod, metadata: {name: far, namespace: lab, labels: {app: web}}, spec: {nodeName: n2},
   status: {podIP: 10.244.2.9}}
- {kind: Node, metadata: {name: n1}, spec: {podCIDR: 10.244.1.0/24},
   status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}}
- {kind: Node, metadata: {name: n2}, spec: {podCIDR: 10.244.2.0/24},
   status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}}
";

/// TCP 5432 of `db` from `web`.
const DB: &str = "
- kind: NetworkPolicy
  metadata: {name: db, namespace: shop}
  spec:
    podSelector: {matchLabels: {app: db}}
    ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
";

/// No pod reaches the metadata of its cloud.
const METADATA: &str = "
- kind: ClusterNetworkPolicy
  metadata: {name: no-metadata}
  spec:
    tier: Admin
    priority: 1
    subject: {namespaces: {}}
    egress: [{action: Deny, to: [{networks: [169.254.169.254/32]}]}]
";

/// The items of several lists.
fn objects(items: &[&str]) -> Vec<Object> {
    let items = items.concat();
    folder::parse(format!("kind: List\nitems:{items}").as_bytes()).unwrap()
}

/// A node with the pods of these numbers, whose programs and rows CNI ADD has written.
fn node(numbers: &[u8]) -> FakeKernel {
    let mut kernel = FakeKernel::new(host());
    for (lease, link) in numbers.iter().map(|n| pod(*n)) {
        kernel.leases.push(lease);
        kernel.host.links.push(link);
    }
    kernel
}

/// The agent on a node with pods 7 and 8, with these objects.
async fn running(items: &[&str]) -> Harness {
    let mut harness = Harness::with(&[], node(&[7, 8]));
    harness.send(lists(objects(items))).await;
    assert!(harness.state().ready(), "{:?}", harness.state().conditions);
    assert_eq!(harness.condition(Concern::Policy), None);
    harness
}

/// Operations on maps of policies.
fn of_policies(log: &[String]) -> Vec<&str> {
    let is_policy =
        |label: &&str| ["POLICY", "OPEN_NAMESPACES"].iter().any(|map| label.contains(map));
    log.iter().map(String::as_str).filter(is_policy).collect()
}

/// Whether pod `to` receives TCP 5432 from a peer.
fn receives(harness: &mut Harness, to: u8, peer: &str) -> Judgement {
    let direction = PolicyDirection::Ingress;
    View::of(&harness.kernel().maps).judge(to, direction, peer, proto::TCP, 5432)
}

#[tokio::test(start_paused = true)]
async fn rows_follow_the_policies_and_a_namespace_closes_first() {
    let mut harness = running(&[OBJECTS]).await;
    assert_eq!(harness.kernel().rows::<OpenNamespaces>().len(), 2);
    assert_eq!(harness.kernel().rows::<PodPolicies>().len(), 2);
    let log = harness.send(lists(objects(&[OBJECTS, DB]))).await;
    let log = of_policies(&log);
    assert_eq!(log[0], "delete OPEN_NAMESPACES 1", "{log:?}");
    assert_eq!(log.last(), Some(&"put POLICY_EPOCH 1"), "{log:?}");
    for (peer, expected) in [
        ("10.244.1.8", Judgement::Pass),
        // In another namespace; outside.
        ("10.244.2.9", Judgement::Deny),
        ("203.0.113.1", Judgement::Deny),
    ] {
        assert_eq!(receives(&mut harness, 7, peer), expected, "{peer}");
        assert_eq!(receives(&mut harness, 8, peer), Judgement::Pass, "not selected");
    }
    let log = harness.send([delete(Kind::NetworkPolicy, "shop/db")]).await;
    assert_eq!(of_policies(&log).last(), Some(&"put OPEN_NAMESPACES 1"), "{log:?}");
    assert_eq!(receives(&mut harness, 7, "203.0.113.1"), Judgement::Pass);
    assert_eq!(harness.kernel().rows::<PolicyPeers>(), []);
    assert_eq!(harness.kernel().rows::<PolicyClasses>(), []);
}

#[tokio::test(start_paused = true)]
async fn restart_with_nothing_changed_writes_nothing() {
    let mut harness = running(&[OBJECTS, DB]).await;
    let before = harness.kernel().maps.clone();
    let mut harness = harness.restart();
    let mut log = harness.send(lists(objects(&[OBJECTS, DB]))).await;
    log.extend(harness.run_for(COMPARISON).await);
    assert_eq!(of_policies(&log), Vec::<&str>::new());
    assert_eq!(harness.kernel().maps, before);
    assert!(!harness.state().repairs().contains_key("policy_rows"));
}

/// A policy of an earlier tier may close what the other policies leave open.
#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_cluster_network_policies_are_listed() {
    let mut harness = running(&[OBJECTS, METADATA]).await.restart();
    let mut all = lists(objects(&[OBJECTS, METADATA, DB]));
    let at =
        all.iter().position(|event| format!("{event:?}").contains("Replace(ClusterNetworkPolicy,"));
    let cluster = all.remove(at.unwrap());
    let log = harness.send(all).await;
    assert_eq!(of_policies(&log), Vec::<&str>::new());
    assert_eq!(harness.status(Concern::Policy).0, Status::Waiting);
    let log = harness.send([cluster]).await;
    assert_eq!(of_policies(&log).last(), Some(&"put POLICY_EPOCH 1"));
    assert_eq!(harness.condition(Concern::Policy), None);
}

#[tokio::test(start_paused = true)]
async fn rows_follow_cluster_network_policies() {
    let mut harness = running(&[OBJECTS, DB]).await;
    let sends = |harness: &mut Harness, to: &str| {
        let direction = PolicyDirection::Egress;
        View::of(&harness.kernel().maps).judge(7, direction, to, proto::TCP, 80)
    };
    assert_eq!(sends(&mut harness, "169.254.169.254"), Judgement::Pass);
    harness.send(objects(&[METADATA]).into_iter().map(|o| Event::Objects(Change::Apply(o)))).await;
    assert_eq!(sends(&mut harness, "169.254.169.254"), Judgement::Deny);
    assert_eq!(sends(&mut harness, "169.254.169.253"), Judgement::Pass);
    assert_eq!(receives(&mut harness, 7, "10.244.1.8"), Judgement::Pass);
    assert_eq!(receives(&mut harness, 7, "203.0.113.1"), Judgement::Deny);
    harness.send([delete(Kind::ClusterNetworkPolicy, "no-metadata")]).await;
    assert_eq!(sends(&mut harness, "169.254.169.254"), Judgement::Pass);
}

#[tokio::test(start_paused = true)]
async fn policy_made_while_no_agent_ran_holds_when_the_lists_have_arrived() {
    let mut harness = running(&[OBJECTS]).await.restart();
    let mut all = lists(objects(&[OBJECTS, DB]));
    let at = all.iter().position(|event| format!("{event:?}").contains("Replace(Pod,"));
    let pods = all.remove(at.unwrap());
    let log = harness.send(all).await;
    // A new pod is closed at once; rows of running pods wait for all Pods.
    assert_eq!(of_policies(&log), ["delete OPEN_NAMESPACES 1"]);
    assert_eq!(harness.status(Concern::Policy).0, Status::Waiting);
    assert_eq!(receives(&mut harness, 7, "203.0.113.1"), Judgement::Pass);
    let log = harness.send([pods]).await;
    assert_eq!(of_policies(&log).last(), Some(&"put POLICY_EPOCH 1"));
    assert_eq!(receives(&mut harness, 7, "203.0.113.1"), Judgement::Deny);
    assert_eq!(harness.condition(Concern::Policy), None);
}

#[tokio::test(start_paused = true)]
async fn new_pod_gets_its_row_when_its_lease_appears_and_loses_it_with_the_lease() {
    let mut harness = Harness::with(&[], node(&[8]));
    harness.send(lists(objects(&[OBJECTS, DB]))).await;
    assert_eq!(receives(&mut harness, 7, "10.244.1.8"), Judgement::Pending);
    let (lease, link) = pod(7);
    harness.kernel().leases.push(lease.clone());
    harness.kernel().host.links.push(link);
    let log = harness.send([Event::Leases]).await;
    let log = of_policies(&log);
    assert_eq!(log[log.len() - 2..], ["put POD_POLICY 1", "put POLICY_EPOCH 1"], "{log:?}");
    assert_eq!(receives(&mut harness, 7, "10.244.1.8"), Judgement::Pass);
    // Another pod has the index at once.
    let next = sluice_pod::lease::Lease { generation: 99, pod_name: Some("x".into()), ..lease };
    harness.kernel().leases[1] = next;
    assert_eq!(of_policies(&harness.send([Event::Leases]).await)[0], "put POD_POLICY 1");
    let rows = harness.kernel().rows::<PodPolicies>();
    // Its Pod is not known, and its namespace has a policy.
    assert_eq!(rows[0], (7, PodPolicy::default()));
    harness.kernel().leases.pop();
    assert_eq!(of_policies(&harness.send([Event::Leases]).await), Vec::<&str>::new());
}

#[tokio::test(start_paused = true)]
async fn pod_of_the_same_name_and_another_uid_is_another_pod() {
    const UIDS: [&str; 2] =
        ["11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"];
    let with_uid = |uid: &str| {
        let mut all = objects(&[OBJECTS, DB]);
        for object in &mut all {
            if let Object::Pod(pod) = object
                && &*pod.name.name == "pod-7"
            {
                pod.uid = sluice_core::model::Uid::from_api(uid);
            }
        }
        lists(all)
    };
    for (lease, object, expected) in [
        (Some(UIDS[0]), UIDS[0], Judgement::Pass),
        (Some(UIDS[1]), UIDS[0], Judgement::Pending),
        (None, UIDS[0], Judgement::Pass),
        // A static pod: the hash of its configuration.
        (Some("0123456789abcdef0123456789abcdef"), UIDS[0], Judgement::Pass),
    ] {
        let mut harness = Harness::with(&[], node(&[7]));
        harness.kernel().leases[0].pod_uid = lease.map(str::to_owned);
        harness.send(with_uid(object)).await;
        assert_eq!(receives(&mut harness, 7, "10.244.1.8"), expected, "{lease:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pods_of_other_orchestrators_are_not_isolated() {
    let mut harness = Harness::with(&[], node(&[7]));
    let lease = &mut harness.kernel().leases[0];
    (lease.pod_namespace, lease.pod_name) = (None, None);
    harness.send(lists(objects(&[OBJECTS, DB]))).await;
    assert_eq!(receives(&mut harness, 7, "203.0.113.1"), Judgement::Pass);
}

/// Overwrites a row as another program, and returns what the agent does within a time.
async fn repaired<T: Table>(
    harness: &mut Harness,
    (key, value): (T::Key, T::Value),
    within: Duration,
) -> Vec<String> {
    let before = harness.kernel().rows::<T>();
    harness.kernel().overwrite::<T>(key, value);
    let log = harness.run_for(within).await;
    let rows = harness.kernel().rows::<T>();
    if T::SPEC.name != "POD_POLICY" && T::SPEC.name != "POLICY_EPOCH" {
        assert_eq!(rows, before, "{log:?}");
    }
    of_policies(&log).into_iter().map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn rows_that_another_program_changed_are_repaired() {
    let mut harness = running(&[OBJECTS, DB]).await;
    let allowed = |harness: &mut Harness| {
        let outside = receives(harness, 7, "203.0.113.1");
        (receives(harness, 7, "10.244.1.8"), outside)
    };
    let expected = (Judgement::Pass, Judgement::Deny);
    let revision = |harness: &mut Harness| harness.kernel().rows::<PodPolicies>()[0].1.revision;
    let epoch = |harness: &mut Harness| harness.kernel().rows::<PolicyEpochs>()[0].1;
    assert_eq!(allowed(&mut harness), expected);

    let (index, row) = harness.kernel().rows::<PodPolicies>()[0];
    for wrong in [
        PodPolicy { ends: Default::default(), ..row },
        PodPolicy::default(),
        PodPolicy { generation: row.generation ^ 1, ..row },
    ] {
        let before = epoch(&mut harness);
        let log = repaired::<PodPolicies>(&mut harness, (index, wrong), RESYNC).await;
        assert_eq!(log, ["put POD_POLICY 1", "put POLICY_EPOCH 1"]);
        assert_eq!(allowed(&mut harness), expected);
        // Flows that were judged by the wrong row are judged again.
        assert_eq!(revision(&mut harness), before + 1);
    }
    let none = PodPolicy { generation: 5, ..PodPolicy::default() };
    let log = repaired::<PodPolicies>(&mut harness, (99, none), RESYNC).await;
    assert_eq!(log, ["put POD_POLICY 1", "put POLICY_EPOCH 1"]);
    let log = repaired::<OpenNamespaces>(&mut harness, (7, 1), RESYNC).await;
    assert_eq!(log, ["delete OPEN_NAMESPACES 1"]);

    // All flows of isolated pods are judged again.
    let (key, ports) = harness.kernel().rows::<PolicyPeers>()[0];
    let wrong = sluice_abi::PolicyPorts::ALL;
    let before = epoch(&mut harness);
    repaired::<PolicyPeers>(&mut harness, (key, wrong), COMPARISON).await;
    assert_eq!(harness.kernel().rows::<PolicyPeers>()[0], (key, ports));
    assert_eq!(revision(&mut harness), before + 1);
    let more = sluice_abi::PolicyPeerKey { class: 1, ..key };
    repaired::<PolicyPeers>(&mut harness, (more, wrong), COMPARISON).await;
    let (address, class) = harness.kernel().rows::<PolicyClasses>()[0];
    repaired::<PolicyClasses>(&mut harness, (address, class ^ 1), COMPARISON).await;
    let set = sluice_abi::PolicyPortKey { prefix_len: 96, id: [1, 2], ..Default::default() };
    repaired::<PortSets>(&mut harness, (set, 1), COMPARISON).await;
    harness.kernel().maps.get_mut("POLICY_CLASSES").unwrap().clear();
    harness.run_for(COMPARISON).await;
    assert!(!harness.kernel().rows::<PolicyClasses>().is_empty());
    assert_eq!(allowed(&mut harness), expected);

    // An epoch that goes back would make flows current that were judged before.
    let before = epoch(&mut harness);
    repaired::<PolicyEpochs>(&mut harness, (0, 1), RESYNC).await;
    assert!(epoch(&mut harness) > before);
    assert_eq!(revision(&mut harness), epoch(&mut harness));
    repaired::<PolicyEpochs>(&mut harness, (0, before + 1000), RESYNC).await;
    assert!(harness.state().repairs()["policy_rows"] >= 10);
    let log = harness.run_for(COMPARISON).await;
    assert_eq!(of_policies(&log), Vec::<&str>::new(), "nothing is left to repair");
}

#[tokio::test(start_paused = true)]
async fn limited_watch_of_pods_is_reported_with_policies_only() {
    let mut harness = Harness::with(&["--watch-pods=node"], node(&[7]));
    harness.send(lists(objects(&[OBJECTS]))).await;
    assert_eq!(harness.condition(Concern::Policy), None);
    harness.send(lists(objects(&[OBJECTS, DB]))).await;
    let (status, message) = harness.status(Concern::Policy);
    assert_eq!(status, Status::Degraded);
    assert!(message.starts_with("policies need all Pods"), "{message}");
    assert!(harness.state().ready());
    assert_eq!(receives(&mut harness, 7, "203.0.113.1"), Judgement::Deny);
}

#[tokio::test(start_paused = true)]
async fn programs_and_configuration_wait_for_the_policies() {
    for takes_over in [false, true] {
        let mut harness = Harness::with(&[], node(&[7, 8]));
        if takes_over {
            harness.take_over_later();
        }
        let mut all = lists(objects(&[OBJECTS, DB]));
        let at = all.iter().position(|e| format!("{e:?}").contains("Replace(NetworkPolicy,"));
        let policies = all.remove(at.unwrap());
        let mut log = harness.send(all).await;
        log.extend(harness.run_for(COMPARISON).await);
        assert!(!log.iter().any(|l| l == "hand over" || l == "write CNI config"), "{log:?}");
        assert!(!super::ready_flag(&mut harness) && !harness.state().ready());
        assert_eq!(harness.status(Concern::Policy).0, Status::Waiting);
        // The first write fails.
        harness.kernel().fail("put POD_POLICY", 1, libc::ENOMEM);
        let log = harness.send([policies]).await;
        assert!(!log.iter().any(|l| l == "hand over" || l == "write CNI config"), "{log:?}");
        assert!(!super::ready_flag(&mut harness));
        let log = harness.run_for(Duration::from_secs(2)).await;
        let position = |label: &str| {
            let found = log.iter().position(|l| l.starts_with(label));
            found.unwrap_or_else(|| panic!("no {label} in {log:?}"))
        };
        assert!(position("put POLICY_EPOCH") < position("put NODE_CONFIG"), "{log:?}");
        assert_eq!(log.iter().any(|l| l == "hand over"), takes_over, "{log:?}");
        if takes_over {
            assert!(position("put POLICY_EPOCH") < position("hand over"), "{log:?}");
        }
        assert!(position("put NODE_CONFIG") < position("write CNI config"), "{log:?}");
        assert_eq!(receives(&mut harness, 7, "203.0.113.1"), Judgement::Deny);
        assert!(super::ready_flag(&mut harness) && harness.state().ready());
    }
}
