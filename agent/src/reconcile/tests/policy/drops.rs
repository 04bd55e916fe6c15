//! Drops by policies, explained.

use sluice_abi::{DropEvent, DropReason, FlowKey, PortBe, proto};

use super::{DB, METADATA, OBJECTS, running};
use crate::event::Event;

fn event(reason: DropReason, src: [u8; 4], dst: [u8; 4]) -> DropEvent {
    let flow = FlowKey {
        src: sluice_abi::Addr::v4(src),
        dst: sluice_abi::Addr::v4(dst),
        sport: PortBe::new(40_000),
        dport: PortBe::new(5432),
        proto: proto::TCP,
        ..FlowKey::default()
    };
    DropEvent { flow, reason: reason as u8, ..DropEvent::default() }
}

#[tokio::test(start_paused = true)]
async fn drop_by_policy_has_its_pod_peer_and_the_nearest_rule() {
    let mut harness = running(&[OBJECTS, DB]).await;
    let pod = [10, 244, 1, 7];
    harness
        .send([Event::Drops(vec![
            event(DropReason::PolicyIngress, [10, 244, 2, 9], pod),
            event(DropReason::Malformed, [10, 244, 2, 9], pod),
            // A pod that was removed.
            event(DropReason::PolicyIngress, [10, 244, 2, 9], [10, 244, 1, 99]),
        ])])
        .await;
    let drops: Vec<_> = harness.state().drops_from(0).cloned().collect();
    let explained: Vec<bool> = drops.iter().map(|drop| drop.policy.is_some()).collect();
    assert_eq!(explained, [true, false, false]);
    let row = crate::api::DropRow::from(&drops[0]);
    assert_eq!((row.pod.as_deref(), &*row.reason), (Some("shop/pod-7"), "policy_ingress"));
    assert_eq!((row.peers, row.policies), (vec!["lab/far".into()], vec!["shop/db".into()]));
    assert!(row.reasons[0].contains("shop/db") && row.reasons[0].contains("app=web"));
    let counts = harness.state().drops_by_policy();
    assert_eq!(counts.iter().next(), Some((&("shop".into(), "db".into()), &1)));
    let last = drops[2].sequence;
    assert_eq!(harness.state().drops_from(last).count(), 1);

    // The memory is bounded.
    for _ in 0..40 {
        let one = event(DropReason::PolicyIngress, [10, 244, 2, 9], pod);
        harness.send([Event::Drops(vec![one; 32])]).await;
    }
    assert_eq!(harness.state().drops_from(0).count(), 1024);
}

#[tokio::test(start_paused = true)]
async fn drop_by_a_cluster_network_policy_names_it() {
    let mut harness = running(&[OBJECTS, METADATA]).await;
    let metadata = [169, 254, 169, 254];
    let dropped = event(DropReason::PolicyEgress, [10, 244, 1, 7], metadata);
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
