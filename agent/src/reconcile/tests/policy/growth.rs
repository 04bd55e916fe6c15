//! Maps of policies that are replaced by larger ones. What the attached programs read is never a mixture of both.

use std::time::Duration;

use sluice_abi::map;
use sluice_core::Change;
use sluice_core::diff::Capacity;
use sluice_core::model::Protocol;
use sluice_core::table::Frontends;

use super::*;
use crate::harness::{service, slice};

/// Rules that fit: half of `POLICY_PEERS`, which has eight entries, is for rows that are replaced.
pub(super) const FITS: u16 = 4;

/// Peers `w<n>` with the addresses 10.244.2.(100 + n).
pub(super) fn peers(numbers: std::ops::RangeInclusive<u16>) -> String {
    let pod = |n: u16| {
        format!(
            "
- {{kind: Pod, metadata: {{name: w{n}, namespace: shop, labels: {{app: w{n}}}}}, spec: {{nodeName: n2}},
   status: {{podIP: 10.244.2.{}}}}}",
            100 + n
        )
    };
    numbers.map(pod).chain(["\n".to_owned()]).collect()
}

/// Pod 7 receives TCP 5400 + n from the peer `w<n>`, so that each has a class and a row.
pub(super) fn policy(numbers: std::ops::RangeInclusive<u16>) -> String {
    let rule = |n: u16| {
        format!(
            "{{from: [{{podSelector: {{matchLabels: {{app: w{n}}}}}}}], ports: [{{port: {}}}]}}",
            5400 + n
        )
    };
    let rules: Vec<String> = numbers.map(rule).collect();
    format!(
        "
- kind: NetworkPolicy
  metadata: {{name: many, namespace: shop}}
  spec: {{podSelector: {{matchLabels: {{app: db}}}}, ingress: [{}]}}
",
        rules.join(", ")
    )
}

pub(super) fn changed(items: &[&str]) -> Vec<Event> {
    objects(items).into_iter().map(|object| Event::Objects(Change::Apply(object))).collect()
}

/// Services with 80 frontends, which do not fit.
fn services() -> Vec<Event> {
    let services =
        (1..=40).map(|n| service(&format!("s{n}"), Protocol::Tcp, &format!("10.96.0.{n}"), n));
    services.map(|service| Event::Objects(Change::Apply(service))).collect()
}

/// The agent on a node with small maps of policies, and rules for this many peers.
async fn small(rules: u16) -> Harness {
    small_with(&policy(1..=rules)).await
}

/// As [`small`], with these policies.
pub(super) async fn small_with(policies: &str) -> Harness {
    let mut harness = Harness::with(&[], node(&[7, 8]));
    let capacity = Capacity { policy_classes: 16, policy_peers: 8, ..Capacity::NONE.with(|_| 64) };
    harness.set_capacity(capacity, Capacity::default());
    let log = harness.send(lists(objects(&[OBJECTS, &peers(1..=9), policies]))).await;
    assert_eq!(only(&log, "grow"), [] as [&str; 0]);
    assert!(harness.state().ready(), "{:?}", harness.state().conditions);
    harness.kernel().history = Some(Vec::new());
    harness
}

pub(super) fn only<'a>(log: &'a [String], label: &str) -> Vec<&'a str> {
    log.iter().map(String::as_str).filter(|l| l.starts_with(label)).collect()
}

#[track_caller]
pub(super) fn position(log: &[String], label: &str) -> usize {
    let found = log.iter().position(|l| l.starts_with(label));
    found.unwrap_or_else(|| panic!("no {label} in {log:?}"))
}

/// What the attached programs read.
pub(super) fn used(harness: &mut Harness) -> View {
    View::of(&harness.kernel().used_maps())
}

/// Whether pod 7 receives from the peer `w<n>` what only that one may send.
pub(super) fn admits(view: &View, n: u16) -> bool {
    let peer = format!("10.244.2.{}", 100 + n);
    view.judge(7, PolicyDirection::Ingress, &peer, proto::TCP, 5400 + n) == Judgement::Pass
}

/// The peers of which pod 7 receives.
fn admitted(view: &View) -> Vec<u16> {
    (1..=9).filter(|n| admits(view, *n)).collect()
}

/// At every moment, the programs judged as before all changes or as after them.
fn assert_no_mixture(harness: &mut Harness, before: &View) {
    let after = used(harness);
    for maps in harness.kernel().history.take().unwrap() {
        let view = View::of(&maps);
        for (at, (probe, verdict)) in view.verdicts().iter().enumerate() {
            let allowed = [before, &after].map(|view| view.verdicts()[at].1);
            assert!(allowed.contains(verdict), "{probe:?}: {verdict:?}");
        }
        for n in 1..=9 {
            let allowed = [before, &after].map(|view| admits(view, n));
            assert!(allowed.contains(&admits(&view, n)), "peer {n}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rules_that_do_not_fit_wait_for_larger_maps_and_nothing_is_closed_meanwhile() {
    let mut harness = small(2).await;
    let before = used(&mut harness);
    let log = harness.send(changed(&[&policy(1..=FITS + 2)])).await;
    assert_eq!(only(&log, "grow"), ["grow 64 64 64 64 16 16"]);
    let (grown, switched) = (position(&log, "grow"), position(&log, "hand over"));
    let puts = |log: &[String]| of_policies(log).len();
    assert_eq!(puts(&log[..grown]), 0, "the former rows stay in force: {log:?}");
    assert!(puts(&log[grown..switched]) > 0 && puts(&log[switched..]) == 0, "{log:?}");
    assert_eq!(admitted(&used(&mut harness)), Vec::from_iter(1..=FITS + 2));
    assert_no_mixture(&mut harness, &before);
    assert!(super::super::ready_flag(&mut harness) && harness.state().ready());
    let conditions: Vec<_> = harness.state().conditions.iter().map(|c| c.concern).collect();
    assert_eq!(conditions, [Concern::StalePins]);
    // What follows fits, and is written into the maps that are in use.
    let log = harness.send(changed(&[&policy(1..=FITS + 1)])).await;
    assert_eq!((only(&log, "grow").len(), only(&log, "hand over").len()), (0, 0), "{log:?}");
    assert_eq!(admitted(&used(&mut harness)), Vec::from_iter(1..=FITS + 1));
}

#[tokio::test(start_paused = true)]
async fn maps_of_policies_are_replaced_before_they_are_full() {
    let mut harness = small(2).await;
    let before = used(&mut harness);
    let log = harness.send(changed(&[&policy(1..=FITS)])).await;
    let (written, grown) = (position(&log, "put POLICY_PEERS"), position(&log, "grow"));
    assert!(written < grown, "{log:?}");
    let later: Vec<_> = of_policies(&log[grown..]);
    assert_eq!(later, [] as [&str; 0], "the larger maps have the rows");
    assert!(grown < position(&log, "hand over"), "{log:?}");
    assert_no_mixture(&mut harness, &before);
    assert_eq!(admitted(&used(&mut harness)), Vec::from_iter(1..=FITS));
}

#[tokio::test(start_paused = true)]
async fn policies_that_do_not_fit_are_closed_while_growth_fails() {
    let mut harness = small(2).await;
    harness.kernel().fail("grow", 5, libc::ENOMEM);
    let log = harness.send(changed(&[&policy(1..=FITS + 2)])).await;
    assert_eq!(only(&log, "hand over"), [] as [&str; 0]);
    assert_eq!(admitted(&used(&mut harness)), [] as [u16; 0]);
    assert_eq!(receives(&mut harness, 7, "203.0.113.1"), Judgement::Deny);
    assert_eq!(receives(&mut harness, 8, "203.0.113.1"), Judgement::Pass, "no policy selects it");
    let (status, message) = harness.status(Concern::Growth);
    assert_eq!(status, Status::Failed);
    assert!(message.contains("POLICY_PEERS 16") && message.contains("memory"), "{message}");
    harness.run_for(Duration::from_millis(600)).await;
    let (status, message) = harness.status(Concern::PolicyFindings);
    assert_eq!(status, Status::Degraded);
    assert!(message.contains("shop/pod-7") && message.contains("closed"), "{message}");
    // Other pods get their policies meanwhile.
    let web = "
- kind: NetworkPolicy
  metadata: {name: web, namespace: shop}
  spec: {podSelector: {matchLabels: {app: web}}}
";
    let log = harness.send(changed(&[web])).await;
    assert_eq!(only(&log, "grow"), [] as [&str; 0]);
    assert_eq!(receives(&mut harness, 8, "203.0.113.1"), Judgement::Deny);
    let log = harness.run_for(Duration::from_secs(20)).await;
    assert!(position(&log, "grow") < position(&log, "hand over"), "{log:?}");
    assert_eq!(admitted(&used(&mut harness)), Vec::from_iter(1..=FITS + 2));
    assert!(harness.condition(Concern::Growth).is_none());
    assert_eq!(harness.condition(Concern::PolicyFindings), None);
}

#[tokio::test(start_paused = true)]
async fn growth_of_policies_ends_when_the_rules_that_did_not_fit_are_deleted() {
    let mut harness = small(2).await;
    harness.kernel().fail("grow", 1, libc::ENOMEM);
    harness.send(changed(&[&policy(1..=FITS + 2)])).await;
    assert_eq!(admitted(&used(&mut harness)), [] as [u16; 0]);
    let log = harness.send(changed(&[&policy(1..=2)])).await;
    assert_eq!(only(&log, "grow"), [] as [&str; 0]);
    assert_eq!(admitted(&used(&mut harness)), [1, 2]);
    assert!(harness.condition(Concern::Growth).is_none());
    let log = harness.run_for(Duration::from_secs(60)).await;
    assert_eq!(only(&log, "grow"), [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn maps_of_services_and_policies_are_replaced_at_once() {
    let mut harness = small(2).await;
    let before = used(&mut harness);
    let services = (1..=40).flat_map(|n| {
        let (name, ip) = (format!("s{n}"), format!("10.96.0.{n}"));
        let slice = slice(&name, Protocol::Tcp, &["10.244.2.7"]);
        [service(&name, Protocol::Tcp, &ip, n), slice]
    });
    let mut events: Vec<Event> = services.map(|o| Event::Objects(Change::Apply(o))).collect();
    events.extend(changed(&[&policy(1..=FITS + 2)]));
    let log = harness.send(events).await;
    assert_eq!(only(&log, "grow"), ["grow 128 64 64 64 16 16"]);
    let switched = position(&log, "hand over");
    for label in ["put FRONTENDS", "put POLICY_PEERS", "put POLICY_EPOCH"] {
        let last = log.iter().rposition(|l| l.starts_with(label)).unwrap();
        assert!(last < switched, "{label} in {log:?}");
    }
    assert_eq!(harness.kernel().rows::<Frontends>().len(), 80);
    assert_eq!(admitted(&used(&mut harness)), Vec::from_iter(1..=FITS + 2));
    assert_no_mixture(&mut harness, &before);
}

/// Services whose maps cannot be replaced.
#[tokio::test(start_paused = true)]
async fn policies_get_larger_maps_alone_while_those_of_services_cannot_be_replaced() {
    let mut harness = small(2).await;
    let before = used(&mut harness);
    harness.kernel().fail("grow 128", usize::MAX, libc::ENOMEM);
    let log = harness.send(services().into_iter().chain(changed(&[&policy(1..=FITS + 2)]))).await;
    assert_eq!(only(&log, "grow"), ["grow 64 64 64 64 16 16"]);
    assert_eq!(admitted(&used(&mut harness)), Vec::from_iter(1..=FITS + 2));
    let (status, message) = harness.status(Concern::Growth);
    assert_eq!(status, Status::Failed);
    assert!(message.contains("FRONTENDS 128"), "{message}");
    // Policies that come later do not wait for the repetition.
    let log = harness.send(changed(&[&policy(1..=9)])).await;
    assert_eq!(only(&log, "grow"), ["grow 64 64 64 64 32 32"]);
    assert_eq!(admitted(&used(&mut harness)), Vec::from_iter(1..=9));
    assert!(harness.kernel().rows::<Frontends>().len() < 80);
    harness.kernel().heal();
    let log = harness.run_for(Duration::from_secs(60)).await;
    assert_eq!(only(&log, "grow"), ["grow 128 64 64 64 32 32"]);
    assert_eq!(harness.kernel().rows::<Frontends>().len(), 80);
    assert!(harness.condition(Concern::Growth).is_none());
    assert_no_mixture(&mut harness, &before);
}

#[tokio::test(start_paused = true)]
async fn services_get_larger_maps_alone_while_those_of_policies_cannot_be_replaced() {
    let mut harness = small(2).await;
    for label in ["grow 128 64 64 64 16 16", "grow 64 64 64 64 16 16"] {
        harness.kernel().fail(label, usize::MAX, libc::ENOMEM);
    }
    let log = harness.send(services().into_iter().chain(changed(&[&policy(1..=FITS + 2)]))).await;
    assert_eq!(only(&log, "grow"), ["grow 128 64 64 64 16 8"]);
    assert_eq!(harness.kernel().rows::<Frontends>().len(), 80);
    assert_eq!(admitted(&used(&mut harness)), [] as [u16; 0]);
    assert_eq!(harness.status(Concern::Growth).0, Status::Failed);
}

/// The maps of policies stay: what is written is in force at once.
#[tokio::test(start_paused = true)]
async fn growth_of_services_alone_does_not_delay_policies() {
    let mut harness = small(2).await;
    harness.kernel().fail("hand over", usize::MAX, libc::ENOMEM);
    let log = harness.send(services()).await;
    assert_eq!(only(&log, "grow"), ["grow 128 64 64 64 16 8"]);
    assert_eq!(harness.status(Concern::Migration).0, Status::Failed);
    harness.send(changed(&[&policy(1..=1)])).await;
    assert_eq!(admitted(&used(&mut harness)), [1]);
}

#[tokio::test(start_paused = true)]
async fn policies_that_change_before_the_switch_act_with_it_and_flows_are_judged_again() {
    let mut harness = small(3).await;
    harness.kernel().fail("hand over", usize::MAX, libc::ENOMEM);
    harness.send(changed(&[&policy(1..=FITS + 2)])).await;
    let before = used(&mut harness);
    assert_eq!(admitted(&before), [1, 2, 3]);
    // What a flow of the peer 3 is judged at now.
    let judged = before.epoch;
    harness.send(changed(&[&policy(1..=2)])).await;
    harness.run_for(Duration::from_secs(5)).await;
    assert_eq!(harness.status(Concern::Migration).0, Status::Failed);
    assert_eq!(used(&mut harness), before, "programs go on with the former maps");
    harness.kernel().heal();
    harness.run_for(Duration::from_secs(10)).await;
    assert!(harness.condition(Concern::Migration).is_none());
    let after = used(&mut harness);
    assert_eq!(admitted(&after), [1, 2]);
    assert!(after.judges_again(7, judged), "{judged}: {after:?}");
    assert_no_mixture(&mut harness, &before);
}

/// The larger maps get the rows of the attached programs once more.
#[tokio::test(start_paused = true)]
async fn rows_are_read_after_a_second_growth_before_the_switch() {
    let mut harness = small(2).await;
    let before = used(&mut harness);
    harness.kernel().fail("hand over", usize::MAX, libc::ENOMEM);
    harness.send(changed(&[&policy(1..=FITS + 2)])).await;
    harness.send(changed(&[&policy(2..=FITS + 2)])).await;
    let unused = View::of(&harness.kernel().maps).epoch;
    let log = harness.send(services()).await;
    assert_eq!(only(&log, "grow"), ["grow 128 64 64 64 16 16"]);
    harness.kernel().heal();
    harness.run_for(Duration::from_secs(10)).await;
    let after = used(&mut harness);
    assert_eq!(admitted(&after), Vec::from_iter(2..=FITS + 2));
    assert!(after.judges_again(7, before.epoch) && after.judges_again(7, unused), "{unused}");
}

#[tokio::test(start_paused = true)]
async fn agent_that_stops_during_a_growth_closes_nothing() {
    let mut harness = small(2).await;
    let before = harness.kernel().maps.clone();
    harness.kernel().stopping = true;
    let log = harness.send(changed(&[&policy(1..=FITS + 2)])).await;
    assert_eq!(of_policies(&log), [] as [&str; 0]);
    let changed: Vec<_> = map::POLICY_TABLES
        .iter()
        .filter(|name| before.get(*name) != harness.kernel().maps.get(*name))
        .collect();
    assert_eq!(changed, [] as [&&str; 0]);
    let (status, message) = harness.status(Concern::Growth);
    assert_eq!(status, Status::Waiting);
    assert!(message.contains("stopping"), "{message}");
    harness.kernel().stopping = false;
    let log = harness.run_for(Duration::from_secs(31)).await;
    assert_eq!(only(&log, "grow"), [] as [&str; 0]);
}

/// An earlier switch, after which flows are still to be copied.
#[tokio::test(start_paused = true)]
async fn growth_waits_for_the_end_of_a_switch_and_closes_nothing() {
    let mut harness = small(2).await;
    let before = used(&mut harness);
    harness.kernel().fail("copy flows", usize::MAX, libc::ENOMEM);
    harness.send(changed(&[&policy(1..=FITS + 2)])).await;
    assert_eq!(harness.status(Concern::Migration).0, Status::Failed);
    assert_eq!(admitted(&used(&mut harness)), Vec::from_iter(1..=FITS + 2));
    let log = harness.send(changed(&[&policy(1..=9)])).await;
    assert_eq!(only(&log, "grow"), [] as [&str; 0]);
    harness.run_for(Duration::from_secs(5)).await;
    for concern in [Concern::Growth, Concern::Policy] {
        assert_eq!(harness.status(concern).0, Status::Waiting, "{concern}");
    }
    assert_eq!(admitted(&used(&mut harness)), Vec::from_iter(1..=FITS + 2));
    harness.kernel().heal();
    let log = harness.run_for(Duration::from_secs(60)).await;
    assert_eq!(only(&log, "grow").len(), 1, "{log:?}");
    assert_eq!(admitted(&used(&mut harness)), Vec::from_iter(1..=9));
    assert_no_mixture(&mut harness, &before);
    let took = harness.state().policies_programmed().1.unwrap();
    assert!(took >= Duration::from_secs(5), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn restart_before_the_switch_writes_the_larger_maps_and_switches() {
    let mut harness = small(2).await;
    let before = used(&mut harness);
    harness.kernel().fail("hand over", usize::MAX, libc::ENOMEM);
    // The larger maps are not complete.
    harness.kernel().fail("put POD_POLICY", usize::MAX, libc::ENOMEM);
    let all = [OBJECTS, &peers(1..=9), &policy(1..=FITS + 2)];
    let log = harness.send(changed(&all)).await;
    assert_eq!(only(&log, "grow").len(), 1, "{log:?}");
    harness.kernel().heal();
    let capacity = harness.state().capacity();
    let mut harness = harness.restart();
    harness.set_capacity(capacity, Capacity::default());
    harness.take_over_later();
    harness.run_until_idle().await;
    assert_eq!(admitted(&used(&mut harness)), [1, 2]);
    let log = harness.send(lists(objects(&all))).await;
    assert_eq!((only(&log, "grow").len(), only(&log, "hand over").len()), (0, 1), "{log:?}");
    assert_eq!(admitted(&used(&mut harness)), Vec::from_iter(1..=FITS + 2));
    assert_no_mixture(&mut harness, &before);
}

#[tokio::test(start_paused = true)]
async fn largest_maps_of_policies_close_what_does_not_fit() {
    let mut harness = Harness::with(&[], node(&[7, 8]));
    let capacity = Capacity { policy_classes: 16, policy_peers: 8, ..Capacity::NONE.with(|_| 64) };
    harness.set_capacity(capacity, capacity);
    harness.send(lists(objects(&[OBJECTS, &peers(1..=9), &policy(1..=FITS + 2)]))).await;
    assert_eq!(admitted(&used(&mut harness)), [] as [u16; 0]);
    harness.run_for(Duration::from_millis(600)).await;
    let (_, message) = harness.status(Concern::PolicyFindings);
    assert!(message.contains("shop/pod-7"), "{message}");
    assert!(harness.condition(Concern::Growth).is_none());
    let log = harness.run_for(Duration::from_secs(60)).await;
    assert_eq!(only(&log, "grow"), [] as [&str; 0]);
}
