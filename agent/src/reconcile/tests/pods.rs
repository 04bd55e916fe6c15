//! Repair of programs and `LOCAL_PODS` rows.

use std::time::Duration;

use sluice_abi::{Addr, LocalPod};

use super::with_pods;
use crate::conditions::{Concern, Status};
use crate::event::Event;
use crate::harness::{host, pod};
use crate::kernel::fake::FakeKernel;
use crate::reconcile::pods::LocalPods;

fn of_pods(log: Vec<String>) -> Vec<String> {
    let of_pods = |l: &String| l.starts_with("attach pod") || l.contains("LOCAL_PODS");
    log.into_iter().filter(of_pods).collect()
}

#[tokio::test(start_paused = true)]
async fn missing_programs_and_rows_are_added() {
    let (mut harness, log) = with_pods(&[7, 8]).await;
    assert_eq!(
        of_pods(log),
        ["attach pod 107", "put LOCAL_PODS 1", "attach pod 108", "put LOCAL_PODS 1"]
    );
    let rows = harness.kernel().rows::<LocalPods>();
    assert_eq!(rows[0].0, Addr::v4([10, 244, 1, 7]));
    assert_eq!(rows[0].1.ifindex, 107);
    assert_eq!(of_pods(harness.send([Event::Leases]).await), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn pods_are_repaired_before_any_object_arrives() {
    let mut kernel = FakeKernel::new(host());
    let (lease, link) = pod(7);
    kernel.leases.push(lease);
    kernel.host.links.push(link);
    let mut harness = crate::harness::Harness::with(&[], kernel);
    assert_eq!(of_pods(harness.run_until_idle().await), ["attach pod 107", "put LOCAL_PODS 1"]);
}

#[tokio::test(start_paused = true)]
async fn wrong_row_is_replaced() {
    let (mut harness, _) = with_pods(&[7]).await;
    let (addr, row) = harness.kernel().rows::<LocalPods>()[0];
    for wrong in [
        LocalPod { ifindex: 9, ..row },
        LocalPod { pod_mac: [1; 6], ..row },
        LocalPod { host_mac: [1; 6], ..row },
    ] {
        harness.kernel().overwrite::<LocalPods>(addr, wrong);
        assert_eq!(harness.send([Event::Leases]).await, ["put LOCAL_PODS 1"]);
        assert_eq!(harness.kernel().rows::<LocalPods>(), [(addr, row)]);
    }
}

#[tokio::test(start_paused = true)]
async fn pod_that_add_has_not_finished_is_left_alone() {
    let (mut harness, _) = with_pods(&[]).await;
    let (lease, mut link) = pod(7);
    link.up = false;
    let row = LocalPod { ifindex: link.index, ..LocalPod::default() };
    harness.kernel().leases.push(lease);
    harness.kernel().host.links.push(link);
    harness.kernel().overwrite::<LocalPods>(Addr::v4([10, 244, 1, 7]), row);
    assert_eq!(harness.send([Event::Leases]).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn row_without_lease_is_deleted_once_its_device_is_gone() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    harness.kernel().leases.retain(|lease| lease.address.octets()[3] != 7);
    assert_eq!(harness.send([Event::Leases]).await, Vec::<String>::new());
    harness.kernel().host.links.retain(|link| link.index != 107);
    assert_eq!(harness.send([Event::Leases]).await, ["delete LOCAL_PODS 1"]);
    assert_eq!(harness.kernel().rows::<LocalPods>().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn failed_pod_gets_no_row_and_does_not_stop_the_others() {
    let (mut harness, _) = with_pods(&[]).await;
    for (lease, link) in [pod(7), pod(8)] {
        harness.kernel().leases.push(lease);
        harness.kernel().host.links.push(link);
    }
    harness.kernel().fail("attach pod 107", 1, libc::EPERM);
    let log = harness.send([Event::Leases]).await;
    assert_eq!(log, ["attach pod 108", "put LOCAL_PODS 1"]);
    let (status, message) = harness.status(Concern::Pods);
    assert_eq!(status, Status::Failed);
    assert!(message.starts_with("pod shop/pod-7: attach pod 107: "), "{message}");
    let log = harness.run_for(Duration::from_millis(250)).await;
    assert_eq!(log, ["attach pod 107", "put LOCAL_PODS 1"]);
    assert!(harness.condition(Concern::Pods).is_none());
}
