//! Drops by policies, explained.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use sluice_abi::program::Hook;
use sluice_abi::{DropEvent, DropReason, FlowKey, PortBe, proto};
use tokio::time::Instant;

use super::{DB, METADATA, OBJECTS, lists, objects, running};
use crate::event::{DroppedPacket, Event};

fn dropped(reason: DropReason, src: [u8; 4], dst: [u8; 4]) -> DroppedPacket {
    let flow = FlowKey {
        src: sluice_abi::Addr::v4(src),
        dst: sluice_abi::Addr::v4(dst),
        sport: PortBe::new(40_000),
        dport: PortBe::new(5432),
        proto: proto::TCP,
        ..FlowKey::default()
    };
    let hook = Hook::ToPod as u8;
    let event = DropEvent {
        flow,
        ifindex: 107,
        len: 74,
        reason: reason as u8,
        hook,
        is_reply: u8::from(src == [10, 244, 2, 9]),
        ..DropEvent::default()
    };
    DroppedPacket { at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500), event }
}

#[tokio::test(start_paused = true)]
async fn drop_by_policy_has_its_pod_peer_and_the_nearest_rule() {
    let mut harness = running(&[OBJECTS, DB]).await;
    let pod = [10, 244, 1, 7];
    assert_eq!(harness.state().first_drop(), None);
    harness
        .send([Event::Drops(vec![
            dropped(DropReason::PolicyIngress, [10, 244, 2, 9], pod),
            dropped(DropReason::Malformed, [10, 244, 2, 9], pod),
            // A pod that was removed.
            dropped(DropReason::PolicyIngress, [10, 244, 2, 9], [10, 244, 1, 99]),
        ])])
        .await;
    let drops: Vec<_> = harness.state().drops_from(0).cloned().collect();
    let explained: Vec<bool> = drops.iter().map(|drop| drop.policy.is_some()).collect();
    assert_eq!(explained, [true, false, false]);
    let row = crate::api::DropRow::from(&drops[0]);
    assert_eq!((row.pod.as_deref(), &*row.reason), (Some("shop/pod-7"), "policy_ingress"));
    let ends = |pods: &[crate::api::EndRow]| -> Vec<String> {
        pods.iter().map(|pod| format!("{} {:?}", pod.pod, pod.labels)).collect()
    };
    assert_eq!(ends(&row.source_pods), [r#"lab/far {"app": "web"}"#]);
    assert_eq!(ends(&row.destination_pods), [r#"shop/pod-7 {"app": "db"}"#]);
    assert_eq!((row.at.as_str(), row.sequence), ("1970-01-01T00:00:01.500Z", 1500));
    assert_eq!(row.first_sequence, Some(1500));
    assert_eq!((row.program.as_str(), row.length, row.reply), ("to_pod", 74, true));
    assert_eq!(row.device, "slc02d366cf925");
    assert_eq!(row.policies, ["shop/db"]);
    assert!(row.reasons[0].contains("shop/db") && row.reasons[0].contains("app=web"));
    let counts = harness.state().drops_by_policy();
    assert_eq!(counts.iter().next(), Some((&("shop".into(), "db".into()), &1)));
    let last = drops[2].sequence;
    assert_eq!(harness.state().drops_from(last).count(), 1);

    // A segment that can be a reply to a flow without an entry.
    assert!(!row.mid_stream && row.reasons.iter().all(|reason| !reason.contains("evicted")));
    let mut later = drops[0].clone();
    later.event.is_mid_stream = 1;
    let row = crate::api::DropRow::from(&later);
    assert!(row.mid_stream && row.reasons.last().is_some_and(|r| r.contains("evicted")));

    // The memory is bounded.
    for _ in 0..40 {
        let one = dropped(DropReason::PolicyIngress, [10, 244, 2, 9], pod);
        harness.send([Event::Drops(vec![one; 32])]).await;
    }
    let kept: Vec<_> = harness.state().drops_from(0).collect();
    let expected: Vec<u64> = (1500..).skip(3 + 40 * 32 - 1024).take(1024).collect();
    assert_eq!(kept.iter().map(|drop| drop.sequence).collect::<Vec<_>>(), expected);
    assert!(kept.iter().all(|drop| drop.first_sequence == 1500));
    assert_eq!(harness.state().first_drop(), Some(1500));
}

#[tokio::test(start_paused = true)]
async fn drop_by_a_cluster_network_policy_names_it() {
    let mut harness = running(&[OBJECTS, METADATA]).await;
    let metadata = [169, 254, 169, 254];
    let dropped = dropped(DropReason::PolicyEgress, [10, 244, 1, 7], metadata);
    harness.send([Event::Drops(vec![dropped])]).await;
    let drops: Vec<_> = harness.state().drops_from(0).cloned().collect();
    let row = crate::api::DropRow::from(&drops[0]);
    assert_eq!(
        (row.pod.as_deref(), row.policies),
        (Some("shop/pod-7"), vec!["no-metadata".into()])
    );
    assert!(row.reasons[0].starts_with("no-metadata denies"), "{:?}", row.reasons);
    let counts = harness.state().drops_by_policy();
    assert_eq!(counts.iter().next(), Some((&(String::new(), "no-metadata".into()), &1)));
}

/// The usual case is a client beside a server that starts. The programs do not say which of them is not known.
#[tokio::test(start_paused = true)]
async fn pending_drop_is_of_the_end_that_is_not_known() {
    let server = |known: bool| {
        let pod = "{kind: Pod, metadata: {name: pod-7, namespace: shop, labels: {app: db}}";
        OBJECTS.replace(
            pod,
            if known { pod } else { "{kind: Pod, metadata: {name: other, namespace: shop}" },
        )
    };
    let isolated = DB.replace("app: db", "app: web");
    let dropped = dropped(DropReason::PolicyPending, [10, 244, 1, 8], [10, 244, 1, 7]);
    for (known, pod) in [(false, "shop/pod-7"), (true, "shop/pod-8")] {
        let mut harness = running(&[&server(true), &isolated]).await;
        harness.send(lists(objects(&[&server(known), &isolated]))).await;
        harness.send([Event::Drops(vec![dropped])]).await;
        let row = harness.state().drops_from(0).last().map(crate::api::DropRow::from).unwrap();
        assert_eq!(row.pod.as_deref(), Some(pod), "{row:?}");
        assert_eq!(row.reasons[0].contains("not known yet"), !known, "{row:?}");
        // No policy denied it.
        let none = (String::new(), String::new());
        assert_eq!(harness.state().drops_by_policy().keys().collect::<Vec<_>>(), [&none]);
    }
}

#[tokio::test(start_paused = true)]
async fn reason_is_that_of_the_present_objects_and_kept_until_they_change() {
    let mut harness = running(&[OBJECTS, DB]).await;
    let dropped = dropped(DropReason::PolicyIngress, [10, 244, 2, 9], [10, 244, 1, 7]);
    harness.send([Event::Drops(vec![dropped; 2])]).await;
    let explanations = |harness: &crate::harness::Harness| -> Vec<_> {
        let drops = harness.state().drops_from(0);
        drops.filter_map(|drop| drop.policy.as_ref()?.explanation.clone()).collect()
    };
    let first = explanations(&harness);
    assert!(std::sync::Arc::ptr_eq(&first[0], &first[1]), "looked for twice");
    // The client moves to the labels that the policy admits.
    let moved = OBJECTS.replace("name: far, namespace: lab", "name: far, namespace: shop");
    harness.send(lists(objects(&[&moved, DB]))).await;
    harness.send([Event::Drops(vec![dropped])]).await;
    let last = explanations(&harness).pop();
    let row = harness.state().drops_from(0).last().map(crate::api::DropRow::from);
    assert!(!std::sync::Arc::ptr_eq(&first[0], last.as_ref().unwrap()));
    assert_eq!(row.unwrap().reasons[0], "allowed by now");
}

#[tokio::test(start_paused = true)]
async fn drops_beyond_the_time_for_reasons_are_kept_without() {
    let mut harness = running(&[OBJECTS, DB]).await;
    let dropped = dropped(DropReason::PolicyIngress, [10, 244, 2, 9], [10, 244, 1, 7]);
    harness.state_mut().apply(Event::Drops(vec![dropped]), || false);
    let row = harness.state().drops_from(0).next().map(crate::api::DropRow::from).unwrap();
    assert_eq!((row.pod.as_deref(), row.source_pods.len()), (Some("shop/pod-7"), 1));
    assert!(row.reasons[0].starts_with("not explained"), "{:?}", row.reasons);
    let counts = harness.state().drops_by_policy();
    assert_eq!(counts.iter().next(), Some((&(String::new(), String::new()), &1)));
}

#[tokio::test(start_paused = true)]
async fn reasons_of_one_batch_are_looked_for_for_5_ms() {
    thread_local!(static CALLS: Cell<u32> = const { Cell::new(0) });
    let mut harness = running(&[OBJECTS, DB]).await;
    let start = Instant::now();
    thread_local!(static START: Cell<Option<Instant>> = const { Cell::new(None) });
    START.set(Some(start));
    harness.set_clock(|| {
        CALLS.set(CALLS.get() + 1);
        START.get().unwrap() + CALLS.get() * Duration::from_millis(2)
    });
    let of = |n| dropped(DropReason::PolicyIngress, [203, 0, 113, n], [10, 244, 1, 7]);
    harness.send([Event::Drops((0..10).map(of).collect())]).await;
    let explained = |harness: &crate::harness::Harness| {
        let drops = harness.state().drops_from(0);
        drops.filter(|drop| drop.policy.as_ref().is_some_and(|p| p.explanation.is_some())).count()
    };
    // 2 and 4 ms after the start of the batch.
    assert_eq!((harness.state().drops_from(0).count(), explained(&harness)), (10, 2));
}

#[tokio::test(start_paused = true)]
async fn reasons_that_are_kept_are_bounded() {
    let mut harness = running(&[OBJECTS, DB]).await;
    for n in 0..1100u16 {
        let [high, low] = n.to_be_bytes();
        let one = dropped(DropReason::PolicyIngress, [203, 0, high, low], [10, 244, 1, 7]);
        harness.state_mut().apply(Event::Drops(vec![one]), || true);
    }
    assert_eq!(harness.state().kept_reasons(), 1024);
    harness.send(lists(objects(&[OBJECTS]))).await;
    assert_eq!(harness.state().kept_reasons(), 0);
}

/// A ClusterNetworkPolicy that denies one address.
fn denies(n: u16) -> (String, [u8; 4]) {
    let [high, low] = n.to_be_bytes();
    let policy = METADATA
        .replace("no-metadata", &format!("no-{n}"))
        .replace("169.254.169.254", &format!("203.0.{high}.{low}"));
    (policy, [203, 0, high, low])
}

#[tokio::test(start_paused = true)]
async fn policies_beyond_200_are_counted_together_until_one_that_has_a_place_is_deleted() {
    let policies: Vec<(String, [u8; 4])> = (1..=202).map(denies).collect();
    let deny = |n: usize| dropped(DropReason::PolicyEgress, [10, 244, 1, 7], policies[n - 1].1);
    let manifests = |skip: usize| -> Vec<&str> {
        let texts = policies.iter().map(|(text, _)| text.as_str()).enumerate();
        [OBJECTS]
            .into_iter()
            .chain(texts.filter(|(n, _)| n + 1 != skip).map(|(_, text)| text))
            .collect()
    };
    let mut harness = running(&manifests(0)).await;
    // A drop without a reason is counted, but takes no place.
    harness.state_mut().apply(Event::Drops(vec![deny(1)]), || false);
    for n in (1..=202).chain([7, 200, 201]) {
        harness.state_mut().apply(Event::Drops(vec![deny(n)]), || true);
    }
    let of = |harness: &crate::harness::Harness, n: usize| {
        let name = if n == 0 { String::new() } else { format!("no-{n}") };
        harness.state().drops_by_policy().get(&(String::new(), name)).copied()
    };
    let total = |harness: &crate::harness::Harness| -> u64 {
        harness.state().drops_by_policy().values().sum()
    };
    assert_eq!(
        [1, 7, 200, 201, 0].map(|n| of(&harness, n)),
        [Some(1), Some(2), Some(2), None, Some(4)]
    );
    assert_eq!((harness.state().drops_by_policy().len(), total(&harness)), (201, 206));

    // The number of a deleted policy ends, and its place is free.
    harness.send(lists(objects(&manifests(7)))).await;
    assert_eq!((of(&harness, 7), total(&harness)), (None, 204));
    harness.state_mut().apply(Event::Drops(vec![deny(201), deny(202)]), || true);
    assert_eq!([201, 202, 0].map(|n| of(&harness, n)), [Some(1), None, Some(5)]);
}
