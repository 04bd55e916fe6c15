//! Namespaces that open or close while the maps of policies are replaced by larger ones. Programs read
//! `OPEN_NAMESPACES` of both generations: a pod without a row in an open namespace is judged by the policies of
//! servers only, which must not be those of before.

use std::time::Duration;

use sluice_abi::namespace_id;

use super::growth::{FITS, changed, only, policy, position, small_with, used};
use super::*;

/// Closes the namespace `lab`.
const LAB: &str = "
- kind: NetworkPolicy
  metadata: {name: all, namespace: lab}
  spec: {podSelector: {}}
";

/// Outside, and not admitted by the policy of pod 7: as a pod without a row.
const CLIENT: &str = "203.0.113.1";

fn is_open(view: &View, namespace: &str) -> bool {
    view.rows.open_namespaces.contains_key(&namespace_id(namespace))
}

/// Whether the client would pass from the namespace `lab` to pod 7.
fn passes(view: &View) -> bool {
    let receives = view.judge(7, PolicyDirection::Ingress, CLIENT, proto::TCP, 5432);
    is_open(view, "lab") && receives == Judgement::Pass
}

/// The policy of `lab` is deleted, and that of pod 7, for which the maps are too small, is created.
fn change() -> Vec<Event> {
    let mut events = vec![delete(Kind::NetworkPolicy, "lab/all")];
    events.extend(changed(&[&policy(1..=FITS + 2)]));
    events
}

/// No program admitted at any time what is denied before and after the change; it is complete.
fn assert_never_passed(harness: &mut Harness) {
    for maps in harness.kernel().history.take().unwrap() {
        assert!(!passes(&View::of(&maps)), "{maps:?}");
    }
    let after = used(harness);
    assert!(is_open(&after, "lab") && !is_open(&after, "shop"));
    assert!(!passes(&after), "pod 7 is isolated");
}

#[tokio::test(start_paused = true)]
async fn namespace_opens_when_the_hooks_are_switched_to_the_larger_maps() {
    let mut harness = small_with(LAB).await;
    assert!(!is_open(&used(&mut harness), "lab"));
    let log = harness.send(change()).await;
    let switched = position(&log, "hand over");
    assert!(position(&log, "delete OPEN_NAMESPACES 1") < position(&log, "grow"), "{log:?}");
    assert!(position(&log, "grow") < switched, "{log:?}");
    assert_eq!(only(&log[..switched], "put OPEN_NAMESPACES"), [] as [&str; 0]);
    assert_eq!(only(&log[switched..], "put OPEN_NAMESPACES"), ["put OPEN_NAMESPACES 1"]);
    assert_never_passed(&mut harness);
    // They are what the agent expects.
    let log = harness.run_for(RESYNC).await;
    assert_eq!(of_policies(&log), [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn namespace_opens_with_what_fits_when_the_maps_cannot_be_replaced() {
    let mut harness = small_with(LAB).await;
    harness.kernel().fail("grow", usize::MAX, libc::ENOMEM);
    let log = harness.send(change()).await;
    assert_eq!(only(&log, "put OPEN_NAMESPACES"), ["put OPEN_NAMESPACES 1"]);
    assert_never_passed(&mut harness);
}

#[tokio::test(start_paused = true)]
async fn namespaces_close_at_once_and_open_later_while_the_switch_fails() {
    let mut harness = small_with(LAB).await;
    harness.kernel().fail("hand over", usize::MAX, libc::ENOMEM);
    harness.send(change()).await;
    assert_eq!(harness.status(Concern::Migration).0, Status::Failed);
    assert!(!is_open(&used(&mut harness), "lab"));
    // Changes that need no larger maps.
    harness.send([delete(Kind::NetworkPolicy, "shop/many")]).await;
    assert!(!is_open(&used(&mut harness), "shop"));
    harness.send(changed(&[&policy(1..=1)])).await;
    let new = "\n- {kind: Namespace, metadata: {name: new}}\n";
    harness.send(changed(&[new])).await;
    harness.run_for(COMPARISON).await;
    assert!(!["shop", "lab", "new"].iter().any(|name| is_open(&used(&mut harness), name)));
    harness.kernel().heal();
    harness.run_for(Duration::from_secs(20)).await;
    assert!(harness.condition(Concern::Migration).is_none());
    assert!(is_open(&used(&mut harness), "new"));
    assert_never_passed(&mut harness);
    // A namespace that closes is not opened by the maps of before.
    harness.kernel().fail("hand over", usize::MAX, libc::ENOMEM);
    harness.send(changed(&[&policy(1..=9)])).await;
    assert_eq!(harness.status(Concern::Migration).0, Status::Failed);
    harness.send(changed(&[LAB])).await;
    assert!(!is_open(&used(&mut harness), "lab"));
}

/// A pod that is connected while rows wait has none: it is closed unless its namespace is open.
#[tokio::test(start_paused = true)]
async fn namespace_closes_before_its_policies_wait_for_larger_maps() {
    let mut harness = small_with("").await;
    assert_eq!(harness.kernel().rows::<OpenNamespaces>().len(), 2);
    let log = harness.send(changed(&[&policy(1..=FITS + 2)])).await;
    assert!(position(&log, "delete OPEN_NAMESPACES 1") < position(&log, "grow"), "{log:?}");
    assert_eq!(harness.kernel().rows::<OpenNamespaces>().len(), 1);
}
