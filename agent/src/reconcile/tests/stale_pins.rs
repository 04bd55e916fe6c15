//! Removal of pins of other ABI versions.

use std::time::Duration;

use crate::conditions::{Concern, Status};
use crate::harness::{Harness, host, lists, pod};
use crate::kernel::fake::FakeKernel;

fn upgraded() -> FakeKernel {
    let mut kernel = FakeKernel::new(host());
    let (lease, link) = pod(7);
    kernel.leases.push(lease);
    kernel.host.links.push(link);
    kernel.stale_pins.push("v1".to_owned());
    kernel
}

#[tokio::test(start_paused = true)]
async fn pins_are_removed_after_programs_and_files_are_replaced() {
    let mut harness = Harness::with(&[], upgraded());
    let log = harness.run_until_idle().await;
    assert!(!log.contains(&"remove pins v1".to_owned()), "{log:?}");
    assert_eq!(harness.status(Concern::StalePins).0, Status::Waiting);
    let log = harness.send(lists(vec![])).await;
    assert_eq!(log.last().unwrap(), "write CNI config");
    // An ADD of the former binary may run.
    assert_eq!(harness.run_for(Duration::from_secs(9)).await, Vec::<String>::new());
    assert_eq!(harness.run_for(Duration::from_secs(2)).await, ["remove pins v1"]);
}

/// The former agent of this version was killed right after it had replaced the CNI binary.
#[tokio::test(start_paused = true)]
async fn pins_stay_for_the_grace_period_after_a_restart() {
    let mut harness = Harness::with(&[], upgraded());
    harness.send(lists(vec![])).await;
    let mut harness = harness.restart();
    let log = harness.send(lists(vec![])).await;
    assert!(!log.contains(&"install CNI binary".to_owned()), "{log:?}");
    assert!(!log.contains(&"remove pins v1".to_owned()), "{log:?}");
    assert_eq!(harness.run_for(Duration::from_secs(9)).await, Vec::<String>::new());
    assert_eq!(harness.run_for(Duration::from_secs(2)).await, ["remove pins v1"]);
}

#[tokio::test(start_paused = true)]
async fn flag_sets_the_grace_period() {
    let mut harness = Harness::with(&["--stale-pin-grace-period=3"], upgraded());
    harness.send(lists(vec![])).await;
    assert_eq!(harness.run_for(Duration::from_secs(2)).await, Vec::<String>::new());
    assert_eq!(harness.run_for(Duration::from_secs(2)).await, ["remove pins v1"]);
}

#[tokio::test(start_paused = true)]
async fn pins_stay_while_a_pod_or_the_cgroup_root_may_use_them() {
    for label in ["attach pod 107", "attach sockets", "attach uplink"] {
        let mut kernel = upgraded();
        kernel.fail(label, 3, libc::EPERM);
        let mut harness = Harness::with(&[], kernel);
        let log = harness.send(lists(vec![])).await;
        assert!(!log.contains(&"remove pins v1".to_owned()), "{label}: {log:?}");
        let log = harness.run_for(Duration::from_secs(12)).await;
        assert_eq!(log.last().unwrap(), "remove pins v1", "{label}");
    }
}
