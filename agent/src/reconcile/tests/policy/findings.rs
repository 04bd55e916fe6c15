//! Problems of policies, as Events and as a condition.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::ready;
use std::time::Duration;

use sluice_abi::{PolicyDirection, proto};
use sluice_core::policy::Judgement;
use tokio::time::Instant;

use super::maps::View;
use super::{DB, OBJECTS, RESYNC, node, objects, receives, running};
use crate::conditions::Concern;
use crate::findings::{Finding, NotWritten};
use crate::harness::{Harness, lists};

/// A policy with two ranges without a port.
fn broken() -> String {
    DB.replace("port: 5432", "port: 90, endPort: 80}, {port: 91, endPort: 81")
}

/// Reports for a time. Returns when something was reported, in whole minutes, and what; the first `failed`
/// Events cannot be written.
async fn reported(harness: &mut Harness, duration: Duration, failed: usize) -> Vec<(u64, String)> {
    let start = Instant::now();
    let found = RefCell::new(Vec::new());
    let write = |finding: Finding| {
        let mut found = found.borrow_mut();
        let Finding { object, message, .. } = finding;
        found.push((start.elapsed().as_secs() / 60, format!("{object}: {message}")));
        ready(if found.len() > failed { Ok(()) } else { Err(NotWritten) })
    };
    harness.report_for(duration, write).await;
    found.into_inner()
}

/// The API server keeps an Event for an hour.
#[tokio::test(start_paused = true)]
async fn policy_that_stays_broken_is_reported_again_before_its_event_expires() {
    let mut harness = running(&[OBJECTS, &broken()]).await;
    let found = reported(&mut harness, Duration::from_secs(2 * 60 * 60), 0).await;
    let minutes: Vec<u64> = found.iter().map(|(minute, _)| *minute).collect();
    assert!((3..=4).contains(&minutes.len()), "{minutes:?}");
    let gaps: Vec<u64> = minutes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (30..45).contains(gap)), "{minutes:?}");
    // Both problems are in one Event.
    let texts: BTreeSet<&String> = found.iter().map(|(_, text)| text).collect();
    let text = "shop/db: ingress[0].ports[0]: endPort 80 is lower than port 90: it matches nothing; \
                ingress[0].ports[1]: endPort 81 is lower than port 91: it matches nothing";
    assert_eq!(Vec::from_iter(texts), [text]);
}

#[tokio::test(start_paused = true)]
async fn event_of_a_policy_that_could_not_be_written_is_written_later() {
    let mut harness = running(&[OBJECTS, &broken()]).await;
    let found = reported(&mut harness, Duration::from_secs(10 * 60), 2).await;
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|(minute, _)| *minute < 5), "{found:?}");
}

/// More problems than the queue and one pass of the loop take.
#[tokio::test(start_paused = true)]
async fn every_one_of_many_broken_policies_is_reported() {
    let many: String =
        (0..1500).map(|n| broken().replace("name: db,", &format!("name: db{n},"))).collect();
    let mut harness = running(&[OBJECTS, &many]).await;
    let found = reported(&mut harness, Duration::from_secs(60 * 60), 0).await;
    let objects: BTreeSet<&str> =
        found.iter().filter_map(|(_, text)| text.split_once(':')).map(|(name, _)| name).collect();
    assert_eq!(objects.len(), 1500);
}

#[tokio::test(start_paused = true)]
async fn policy_that_is_created_again_is_reported_again() {
    let mut harness = running(&[OBJECTS]).await;
    for uid in ["1", "2"] {
        let metadata = format!("uid: '{}', name: db,", uid.repeat(32));
        let policy = broken().replace("name: db,", &metadata);
        harness.send(lists(objects(&[OBJECTS, &policy]))).await;
        let found = reported(&mut harness, RESYNC, 0).await;
        assert_eq!(found.len(), 1, "{uid}: {found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn policy_that_cannot_work_as_written_is_named_and_closes() {
    let mut harness = running(&[OBJECTS]).await;
    let policy = DB.replace("port: 5432", "port: 5432, endPort: 80");
    harness.send(lists(objects(&[OBJECTS, &policy]))).await;
    harness.run_for(RESYNC).await;
    let found = harness.findings();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("shop/db EmptyPortRange: "), "{found:?}");
    // The node is as desired.
    assert_eq!(harness.condition(Concern::PolicyFindings), None);
    let mistakes = harness.state().policy_mistakes();
    assert!(mistakes.starts_with("NetworkPolicy shop/db: "), "{mistakes}");
    assert_eq!(receives(&mut harness, 7, "10.244.1.8"), Judgement::Deny);
    harness.send(lists(objects(&[OBJECTS, DB]))).await;
    harness.run_for(RESYNC).await;
    assert_eq!(harness.state().policy_mistakes(), "");
    assert_eq!(harness.findings(), Vec::<String>::new());
}

/// The port `sql` is named by rules of both directions and kinds, and defined by no pod of this node.
#[tokio::test(start_paused = true)]
async fn undefined_port_is_reported_only_if_all_pods_are_known() {
    let by_name = DB.replace("port: 5432", "port: sql, protocol: TCP}, {port: 90, endPort: 80");
    let egress = "
- kind: NetworkPolicy
  metadata: {name: out, namespace: shop}
  spec: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: sql}]}]}
- kind: ClusterNetworkPolicy
  metadata: {name: cluster}
  spec:
    tier: Admin
    priority: 1
    subject: {namespaces: {}}
    ingress:
    - {action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: sql}]}
    egress:
    - {action: Accept, to: [{namespaces: {}}], protocols: [{destinationNamedPort: sql}]}
";
    let far = "
- {kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}}, status: {podIP: 10.244.2.7},
   spec: {nodeName: n2, containers: [{name: db, ports: [{name: sql, containerPort: 5432}]}]}}
";
    let range = "shop/db EmptyPortRange";
    let undefined = ["cluster", "shop/db", "shop/out"].map(|o| format!("{o} UndefinedPort"));
    let all: Vec<String> = [&undefined[..], &[range.to_owned()]].concat();
    for (flags, pods, expected) in [
        (&[][..], "", &all[..]),
        (&[], far, &[range.to_owned()]),
        (&["--watch-pods=node"], "", &[range.to_owned()]),
    ] {
        let mut harness = Harness::with(flags, node(&[7]));
        harness.send(lists(objects(&[OBJECTS, &by_name, egress, pods]))).await;
        harness.run_for(RESYNC).await;
        let mut found: Vec<String> = harness.findings();
        found.iter_mut().for_each(|text| text.truncate(text.find(':').unwrap()));
        found.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{flags:?}");
    }
}

/// CONTRACT 9.4 and 9.5: `domainNames` is not supported. The rule is closed with all its peers, the others stay.
#[tokio::test(start_paused = true)]
async fn rule_with_domain_names_is_closed_and_named() {
    let policy = |action: &str, peers: &str| {
        format!(
            "
- kind: ClusterNetworkPolicy
  metadata: {{name: domains}}
  spec:
    tier: Admin
    priority: 1
    subject: {{namespaces: {{}}}}
    egress:
    - {{action: Accept, to: [{{networks: [198.51.100.0/24]}}]}}
    - {{action: {action}, to: [{peers}]}}
    - {{action: Accept, to: [{{networks: [203.0.113.0/24]}}]}}
    - {{action: Deny, to: [{{networks: [0.0.0.0/0]}}]}}
"
        )
    };
    let domain = "{domainNames: [example.org, '*.example.org']}";
    let both = format!("{{networks: [192.0.2.0/24]}}, {domain}");
    let (nothing, everything) = ("the rule matches nothing", "the rule denies everything");
    for (action, peers, effect, later) in [
        ("Accept", domain, nothing, Judgement::Pass),
        ("Accept", &both, nothing, Judgement::Pass),
        ("Deny", domain, everything, Judgement::Deny),
        ("Pass", &both, everything, Judgement::Deny),
    ] {
        let mut harness = running(&[OBJECTS, &policy(action, peers)]).await;
        harness.run_for(RESYNC).await;
        let found = harness.findings();
        let at = if peers == domain { 0 } else { 1 };
        let text = format!(
            "domains InvalidPart: egress[1]: to[{at}]: domainNames is not supported: {effect}"
        );
        assert_eq!(found, [text]);
        let rows = View::of(&harness.kernel().maps);
        for (peer, expected) in [
            ("198.51.100.1", Judgement::Pass),
            ("192.0.2.1", Judgement::Deny),
            ("203.0.113.1", later),
        ] {
            let judged = rows.judge(7, PolicyDirection::Egress, peer, proto::TCP, 443);
            assert_eq!(judged, expected, "{action} {peers}: {peer}");
        }
    }
}
