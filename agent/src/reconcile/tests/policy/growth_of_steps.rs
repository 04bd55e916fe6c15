//! Larger maps of policies that are needed for a moment: for the steps of a change, those of the former and of the
//! next rules together, or for a policy that comes and goes.

use std::time::Duration;

use sluice_core::diff::Capacity;

use super::growth::{admits, changed, only, peers, policy, used};
use super::*;

/// Rules that fit into `POLICY_CLASSES` with 32 entries. Twice as many do not.
const FITS: u16 = 21;

/// The peers of two versions of a policy that have none in common.
const VERSIONS: [std::ops::RangeInclusive<u16>; 2] = [1..=FITS, FITS + 1..=2 * FITS];

/// The agent with the first version.
async fn small() -> Harness {
    let mut harness = Harness::with(&[], node(&[7, 8]));
    let capacity = Capacity { policy_classes: 32, ..Capacity::NONE.with(|_| 64) };
    harness.set_capacity(capacity, Capacity::default());
    let [first, _] = VERSIONS.map(policy);
    let log = harness.send(lists(objects(&[OBJECTS, &peers(1..=2 * FITS), &first]))).await;
    assert_eq!(only(&log, "grow"), [] as [&str; 0]);
    assert!(harness.condition(Concern::Growth).is_none());
    harness
}

/// Changes the policy to this version. Returns whether the maps were replaced; the rules are in force.
async fn change(harness: &mut Harness, version: usize) -> bool {
    let [former, next] = [1 - version, version].map(|version| VERSIONS[version].clone());
    let log = harness.send(changed(&[&policy(next.clone())])).await;
    let view = used(harness);
    assert!(next.into_iter().all(|n| admits(&view, n)), "{log:?}");
    assert!(!former.into_iter().any(|n| admits(&view, n)), "{log:?}");
    assert!(harness.condition(Concern::Growth).is_none(), "nothing is needed any more");
    assert!(harness.condition(Concern::Policy).is_none());
    !only(&log, "grow").is_empty()
}

#[tokio::test(start_paused = true)]
async fn maps_are_replaced_for_the_steps_of_a_change() {
    let mut harness = small().await;
    assert!(change(&mut harness, 1).await);
}

/// Each attempt takes seconds of verification. The one after the failures would succeed.
#[tokio::test(start_paused = true)]
async fn failed_growth_for_the_steps_of_a_change_is_repeated_with_backoff() {
    let mut harness = small().await;
    harness.kernel().fail("grow", 2, libc::ENOMEM);
    // 200 ms after the first failure, 400 ms after the second one.
    for (at, (wait, grown)) in
        [(0, false), (0, false), (210, false), (210, false), (210, true)].into_iter().enumerate()
    {
        let log = harness.run_for(Duration::from_millis(wait)).await;
        assert_eq!(only(&log, "grow"), [] as [&str; 0], "no change needs it");
        assert_eq!(change(&mut harness, (at + 1) % 2).await, grown, "change {at}");
    }
}

/// Rules that fit and rules that do not, in turns.
#[tokio::test(start_paused = true)]
async fn failed_growth_for_a_policy_that_comes_and_goes_is_repeated_with_backoff() {
    let mut harness = small().await;
    let everything = policy(1..=2 * FITS);
    // With rules left that fit, the steps need no larger maps.
    let few = policy(1..=1);
    harness.send(changed(&[&few])).await;
    // The second attempt would succeed.
    harness.kernel().fail("grow", 1, libc::ENOMEM);
    for change in 0..20 {
        let log = harness.send(changed(&[&everything])).await;
        assert_eq!(only(&log, "grow"), [] as [&str; 0], "change {change}");
        assert!(!admits(&used(&mut harness), 1), "what does not fit is closed");
        let (status, message) = harness.status(Concern::Growth);
        assert_eq!(status, Status::Failed);
        assert!(message.contains("POLICY_CLASSES 128"), "{message}");
        let log = harness.send(changed(&[&few])).await;
        assert_eq!(only(&log, "grow"), [] as [&str; 0], "change {change}");
        assert!(admits(&used(&mut harness), 1));
        assert!(harness.condition(Concern::Growth).is_none(), "nothing is needed any more");
    }
    // The need stays: the attempt is repeated when it is due, without another change.
    harness.send(changed(&[&everything])).await;
    let log = harness.run_for(Duration::from_secs(2)).await;
    assert_eq!(only(&log, "grow").len(), 1, "{log:?}");
    assert!(admits(&used(&mut harness), 1) && admits(&used(&mut harness), 2 * FITS));
    assert!(harness.condition(Concern::Growth).is_none());
}
