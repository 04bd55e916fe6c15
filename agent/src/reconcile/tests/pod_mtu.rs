//! MTU changes of running pods.

use std::time::Duration;

use super::with_pods;
use crate::conditions::Concern;
use crate::event::Event;
use crate::harness::{Harness, host, lists, pod};
use crate::kernel::fake::FakeKernel;

fn set_uplink_mtu(harness: &mut Harness, mtu: u32) {
    harness.kernel().host.links[1].mtu = mtu;
}

/// The operation on pod `n`.
fn set_mtu(n: u8, mtu: u32) -> String {
    format!("set MTU {} {mtu}", pod(n).0.host_ifname)
}

#[tokio::test(start_paused = true)]
async fn pods_with_the_former_mtu_follow_the_uplink() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    // Chosen by another CNI plugin.
    harness.kernel().host.links[4].mtu = 1280;
    set_uplink_mtu(&mut harness, 1400);
    let log = harness.send([Event::HostNetwork]).await;
    assert_eq!(
        log,
        ["put NODE_CONFIG 1".to_owned(), set_mtu(7, 1400), "write CNI config".to_owned()]
    );
    assert!(harness.kernel().cni_config.as_deref().unwrap().contains("\"mtu\": 1400"));
    assert_eq!(harness.run_for(Duration::from_secs(60)).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn mtu_that_changed_while_no_agent_ran_reaches_the_pods() {
    let (mut harness, _) = with_pods(&[7]).await;
    set_uplink_mtu(&mut harness, 1400);
    let mut harness = harness.restart();
    let log = harness.send(lists(vec![])).await;
    assert!(log.contains(&set_mtu(7, 1400)), "{log:?}");
}

/// The agent ends after NODE_CONFIG has the new MTU and before the pods have it.
#[tokio::test(start_paused = true)]
async fn former_mtu_survives_a_restart() {
    let (mut harness, _) = with_pods(&[7]).await;
    harness.kernel().fail("set MTU", usize::MAX, libc::EBUSY);
    set_uplink_mtu(&mut harness, 1400);
    let log = harness.send([Event::HostNetwork]).await;
    assert!(log.contains(&"put NODE_CONFIG 1".to_owned()), "{log:?}");
    harness.kernel().heal();
    let mut harness = harness.restart();
    let log = harness.send(lists(vec![])).await;
    assert!(log.contains(&set_mtu(7, 1400)), "{log:?}");
    harness.run_for(Duration::from_secs(91)).await;
    assert!(harness.kernel().old_mtus.is_empty());
}

/// An ADD may have read the former CNI configuration.
#[tokio::test(start_paused = true)]
async fn pod_that_is_added_during_the_change_follows_too() {
    let (mut harness, _) = with_pods(&[7]).await;
    harness.kernel().fail("write CNI config", 1, libc::ENOSPC);
    let mtu = harness.kernel().host.links[1].mtu;
    set_uplink_mtu(&mut harness, 1400);
    let log = harness.send([Event::HostNetwork]).await;
    assert!(log.contains(&set_mtu(7, 1400)), "{log:?}");
    harness.run_for(Duration::from_secs(40)).await;
    let (lease, mut link) = pod(8);
    link.mtu = mtu;
    harness.kernel().leases.push(lease);
    harness.kernel().host.links.push(link);
    let log = harness.send([Event::Leases]).await;
    assert!(log.contains(&set_mtu(8, 1400)), "{log:?}");
    // Another plugin's MTU, long after.
    harness.run_for(Duration::from_secs(91)).await;
    assert!(harness.kernel().old_mtus.is_empty());
    harness.kernel().host.links.last_mut().unwrap().mtu = mtu;
    let log = harness.send([Event::Leases]).await;
    assert!(!log.contains(&set_mtu(8, 1400)), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn failed_pod_is_retried_also_after_a_further_change() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    harness.kernel().fail("set MTU", 1, libc::EBUSY);
    set_uplink_mtu(&mut harness, 1400);
    let log = harness.send([Event::HostNetwork]).await;
    assert!(log.contains(&set_mtu(8, 1400)), "{log:?}");
    assert!(harness.status(Concern::PodMtu).1.starts_with("pod shop/pod-7: set MTU"));
    set_uplink_mtu(&mut harness, 1300);
    let mut log = harness.send([Event::HostNetwork]).await;
    log.retain(|l| l.starts_with("set MTU"));
    assert_eq!(log, [set_mtu(7, 1300), set_mtu(8, 1300)]);
    assert!(harness.condition(Concern::PodMtu).is_none());
}

#[tokio::test(start_paused = true)]
async fn configured_mtu_does_not_follow_the_uplink() {
    let mut kernel = FakeKernel::new(host());
    let (lease, link) = pod(7);
    kernel.leases.push(lease);
    kernel.host.links.push(link);
    let mut harness = Harness::with(&["--mtu=1450"], kernel);
    harness.send(lists(vec![])).await;
    assert!(harness.kernel().cni_config.as_deref().unwrap().contains("\"mtu\": 1450"));
    set_uplink_mtu(&mut harness, 1400);
    assert_eq!(harness.send([Event::HostNetwork]).await, ["put NODE_CONFIG 1"]);
}
