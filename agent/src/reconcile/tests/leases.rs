//! Release of leases whose sandbox was removed.

use std::time::Duration;

use sluice_pod::lease::{BootInstant, Entry};

use super::{of_others, with_pods};
use crate::conditions::Concern;
use crate::harness::{self, Harness, pod};
use crate::kernel::fake::FakeKernel;
use crate::reconcile::Reconciler;
use crate::reconcile::leases::ReconcileLeases;

/// Time until the next resync, in which leases are checked.
const RESYNC: Duration = Duration::from_secs(31);

fn at(boot: &str, seconds: u64) -> BootInstant {
    BootInstant { boot_id: boot.to_owned(), seconds }
}

#[tokio::test(start_paused = true)]
async fn lease_without_a_device_is_released() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    harness.kernel().host.links.retain(|link| link.index != 107);
    let log = harness.run_for(RESYNC).await;
    assert_eq!(log, ["put PODS 1", "delete LOCAL_PODS 1", "release lease 10.244.1.7"]);
}

#[tokio::test(start_paused = true)]
async fn lease_of_a_running_add_is_kept() {
    let (mut harness, _) = with_pods(&[]).await;
    let (mut lease, _) = pod(7);
    lease.since = at("boot", 1000);
    harness.kernel().leases.push(lease);
    for seconds in [1000, 1119] {
        harness.kernel().boot_instant = at("boot", seconds);
        let log = of_others(harness.run_for(RESYNC).await);
        assert_eq!(log, Vec::<String>::new(), "{seconds}");
    }
    harness.kernel().boot_instant = at("boot", 1120);
    assert_eq!(harness.run_for(RESYNC).await, ["release lease 10.244.1.7"]);
}

/// The agent is stopped after it listed the devices, while an ADD creates its own.
#[test]
fn lease_of_an_add_that_ends_while_the_agent_is_stopped_is_kept() {
    let mut kernel = FakeKernel::new(harness::host());
    let (mut lease, link) = pod(7);
    lease.since = at("boot", 1000);
    kernel.leases.push(lease);
    kernel.after("list links", move |kernel| {
        kernel.host.links.push(link);
        kernel.boot_instant = at("boot", 1200);
    });
    ReconcileLeases.reconcile(&mut Harness::idle_state(), &mut kernel).unwrap();
    assert_eq!(kernel.take_log(), Vec::<String>::new());
    assert_eq!(kernel.boot_instant, at("boot", 1200), "the agent was stopped");
}

/// An ADD that takes longer than its lease is protected creates its device before the agent has the lock.
#[test]
fn lease_whose_device_appears_before_the_lock_is_kept() {
    let mut kernel = FakeKernel::new(harness::host());
    let (lease, link) = pod(7);
    kernel.leases.push(lease);
    kernel.after("lock leases", move |kernel| kernel.host.links.push(link));
    ReconcileLeases.reconcile(&mut Harness::idle_state(), &mut kernel).unwrap();
    assert_eq!(kernel.take_log(), Vec::<String>::new());
    assert_eq!(kernel.leases.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn lease_without_a_device_is_kept_while_its_network_namespace_may_exist() {
    let (mut harness, _) = with_pods(&[7]).await;
    let path = harness.kernel().leases[0].netns.clone();
    harness.kernel().netns.insert(path.clone());
    harness.kernel().host.links.retain(|link| link.index != 107);
    let log = harness.run_for(RESYNC).await;
    assert!(!log.iter().any(|line| line.starts_with("release")), "{log:?}");
    harness.kernel().netns.remove(&path);
    assert_eq!(harness.run_for(RESYNC).await, ["release lease 10.244.1.7"]);
}

#[tokio::test(start_paused = true)]
async fn lease_from_before_a_reboot_is_released_at_start() {
    let mut kernel = FakeKernel::new(harness::host());
    let (mut lease, _) = pod(7);
    lease.since = at("former boot", 999);
    kernel.leases.push(lease);
    let mut harness = Harness::with(&[], kernel);
    assert!(harness.run_until_idle().await.contains(&"release lease 10.244.1.7".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_lease_that_stays_is_a_condition_and_keeps_no_other_from_its_end() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    let damaged = Entry::of(&harness.kernel().leases.remove(1));
    harness.kernel().damaged.push(damaged);
    harness.kernel().host.links.retain(|link| link.index != 107);
    let log = harness.run_for(RESYNC).await;
    assert!(log.contains(&"release lease 10.244.1.7".to_owned()), "{log:?}");
    let condition = harness.condition(Concern::Leases).unwrap();
    assert!(condition.message.contains("damaged lease of 10.244.1.8"), "{condition:?}");
    harness.kernel().damaged.clear();
    harness.run_for(RESYNC).await;
    assert!(harness.condition(Concern::Leases).is_none());
}

#[tokio::test(start_paused = true)]
async fn interrupted_dump_of_devices_releases_nothing() {
    let (mut harness, _) = with_pods(&[7]).await;
    harness.kernel().host.links.retain(|link| link.index != 107);
    harness.kernel().fail("list links", usize::MAX, libc::EINTR);
    assert_eq!(harness.run_for(RESYNC).await, Vec::<String>::new());
    assert!(harness.condition(Concern::Leases).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_full_range_is_a_condition_until_an_address_is_free() {
    let numbers: Vec<u8> = (2..=254).collect();
    let (mut harness, _) = with_pods(&numbers).await;
    harness.run_for(RESYNC).await;
    let condition = harness.condition(Concern::Leases).unwrap();
    assert!(condition.message.contains("all 253 pod addresses of 10.244.1.0/24"), "{condition:?}");
    // A pod without a device, whose namespace the agent sees, and one whose namespace only ADD would see.
    let lease = harness.kernel().leases.last().unwrap().clone();
    harness.kernel().host.links.retain(|link| link.name != lease.host_ifname);
    harness.kernel().netns.insert(lease.netns.clone());
    harness.run_for(RESYNC).await;
    assert!(harness.condition(Concern::Leases).is_some());
    harness.kernel().netns.clear();
    harness.kernel().hidden_netns.insert(lease.netns);
    harness.run_for(RESYNC).await;
    assert!(harness.condition(Concern::Leases).is_none());
    assert_eq!(harness.kernel().leases.len(), 253, "kept");
    // An address that is free.
    let (_, link) = pod(254);
    harness.kernel().host.links.push(link);
    harness.run_for(RESYNC).await;
    assert!(harness.condition(Concern::Leases).is_some());
    harness.kernel().leases.pop();
    harness.run_for(RESYNC).await;
    assert!(harness.condition(Concern::Leases).is_none());
}
