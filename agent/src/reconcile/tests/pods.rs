//! Repair of programs and `LOCAL_PODS` rows.

use std::time::Duration;

use sluice_abi::{Addr, LocalPod};
use sluice_core::table::{LocalPods, Pods};
use sluice_pod::PathPart;
use sluice_pod::inventory::local_pod;

use super::{of_others, with_pods};
use crate::conditions::{Concern, Status};
use crate::event::{Event, PodScope};
use crate::harness::{Harness, host, pod};
use crate::kernel::fake::FakeKernel;

fn of_pods(log: Vec<String>) -> Vec<String> {
    let of_pods = |l: &String| l.starts_with("attach pod") || l.contains("PODS");
    log.into_iter().filter(of_pods).collect()
}

#[tokio::test(start_paused = true)]
async fn missing_programs_and_rows_are_added() {
    let (mut harness, log) = with_pods(&[7, 8]).await;
    assert_eq!(
        of_pods(log),
        [
            "attach pod 107",
            "put PODS 1",
            "put LOCAL_PODS 1",
            "attach pod 108",
            "put PODS 1",
            "put LOCAL_PODS 1"
        ]
    );
    let rows = harness.kernel().rows::<LocalPods>();
    assert_eq!(rows[0].0, Addr::v4([10, 244, 1, 7]));
    assert_eq!(rows[0].1.ifindex, 107);
    assert_eq!(rows[0].1.namespace, sluice_abi::namespace_id("shop"));
    assert_eq!(of_pods(harness.send([Event::Leases]).await), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn pods_are_repaired_before_any_object_arrives() {
    let mut kernel = FakeKernel::new(host());
    let (lease, link) = pod(7);
    kernel.leases.push(lease);
    kernel.host.links.push(link);
    let mut harness = Harness::with(&[], kernel);
    assert_eq!(
        of_pods(harness.run_until_idle().await),
        ["attach pod 107", "put PODS 1", "put LOCAL_PODS 1"]
    );
}

#[tokio::test(start_paused = true)]
async fn wrong_row_is_replaced() {
    let (mut harness, _) = with_pods(&[7]).await;
    let (addr, row) = harness.kernel().rows::<LocalPods>()[0];
    for wrong in [
        LocalPod { ifindex: 9, ..row },
        LocalPod { namespace: 0, ..row },
        LocalPod { pod_mac: [1; 6], ..row },
        LocalPod { host_mac: [1; 6], ..row },
    ] {
        harness.kernel().overwrite::<LocalPods>(addr, wrong);
        let all = Event::PodNetwork(PodScope::all());
        assert_eq!(harness.send([all]).await, ["put LOCAL_PODS 1"]);
        assert_eq!(harness.kernel().rows::<LocalPods>(), [(addr, row)]);
    }
    let index = u32::from(row.index);
    for wrong in [LocalPod::default(), LocalPod { generation: row.generation ^ 1, ..row }] {
        harness.kernel().overwrite::<Pods>(index, wrong);
        let all = Event::PodNetwork(PodScope::all());
        assert_eq!(harness.send([all]).await, ["put PODS 1"]);
        assert_eq!(harness.kernel().rows::<Pods>(), [(index, row)]);
    }
}

#[tokio::test(start_paused = true)]
async fn row_of_another_pod_with_the_same_index_is_kept() {
    let (mut harness, _) = with_pods(&[7]).await;
    let (_, row) = harness.kernel().rows::<LocalPods>()[0];
    let index = u32::from(row.index);
    let other = LocalPod { ifindex: 500, generation: row.generation ^ 1, ..row };
    harness.kernel().overwrite::<Pods>(index, other);
    harness.kernel().leases.clear();
    harness.kernel().host.links.retain(|link| link.index != 107);
    assert_eq!(of_others(harness.send([Event::Leases]).await), ["delete LOCAL_PODS 1"]);
    assert_eq!(harness.kernel().rows::<Pods>(), [(index, other)]);
}

/// DEL and ADD of other pods run before the agent has the lock.
#[tokio::test(start_paused = true)]
async fn rows_of_the_next_pod_with_an_address_and_an_index_are_kept() {
    let (mut harness, _) = with_pods(&[7]).await;
    let (address, row) = harness.kernel().rows::<LocalPods>()[0];
    let index = u32::from(row.index);
    let next = LocalPod { ifindex: 500, generation: row.generation ^ 1, ..row };
    // A row that is missing, of a pod that ends.
    harness.kernel().overwrite::<Pods>(index, LocalPod::default());
    harness.kernel().after("lock leases", move |kernel| {
        kernel.leases[0].generation ^= 1;
        kernel.overwrite::<Pods>(index, next);
        kernel.overwrite::<LocalPods>(address, next);
    });
    let all = || Event::PodNetwork(PodScope::all());
    assert_eq!(of_others(harness.send([all()]).await), Vec::<String>::new());
    assert_eq!(harness.kernel().rows::<Pods>(), [(index, next)]);
    // A row that is left over.
    harness.kernel().overwrite::<Pods>(index, row);
    harness.kernel().overwrite::<LocalPods>(address, row);
    harness.kernel().leases.clear();
    harness.kernel().host.links.retain(|link| link.index != 107);
    harness.kernel().after("lock leases", move |kernel| {
        kernel.overwrite::<Pods>(index, next);
        kernel.overwrite::<LocalPods>(address, next);
    });
    assert_eq!(of_others(harness.send([all()]).await), Vec::<String>::new());
    assert_eq!(harness.kernel().rows::<Pods>(), [(index, next)]);
    assert_eq!(harness.kernel().rows::<LocalPods>(), [(address, next)]);
}

/// The ADD writes the rows of pod 7, of which the agent sees lease and device.
fn add_writes_rows(kernel: &mut FakeKernel) {
    let (lease, link) = pod(7);
    let row = local_pod(&lease, &link);
    kernel.overwrite::<Pods>(row.index.into(), row);
    kernel.overwrite::<LocalPods>(lease.address.into(), row);
}

/// The agent reads the rows, an ADD ends, the agent reads the devices.
#[tokio::test(start_paused = true)]
async fn rows_that_an_add_writes_after_they_were_read_are_no_repair_and_need_no_lock() {
    for (moment, locks) in [("read LOCAL_PODS", false), ("lock leases", true)] {
        let (mut harness, _) = with_pods(&[]).await;
        let (lease, link) = pod(7);
        harness.kernel().leases.push(lease);
        harness.kernel().host.links.push(link);
        harness.kernel().pod_hooks.insert(107);
        harness.kernel().after(moment, add_writes_rows);
        if !locks {
            harness.kernel().fail("lock leases", usize::MAX, libc::ETIMEDOUT);
        }
        let log = of_others(harness.send([Event::Leases]).await);
        assert_eq!(log, Vec::<String>::new(), "{moment}");
        assert!(harness.condition(Concern::Pods).is_none(), "{moment}");
        assert_eq!(harness.state().repairs().get("pod_row"), None, "{moment}");
        assert_eq!(harness.kernel().rows::<LocalPods>().len(), 1, "{moment}");
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
    assert_eq!(of_others(harness.send([Event::Leases]).await), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn row_without_lease_is_deleted_once_its_device_is_gone() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    harness.kernel().leases.retain(|lease| lease.address.octets()[3] != 7);
    assert_eq!(of_others(harness.send([Event::Leases]).await), Vec::<String>::new());
    harness.kernel().host.links.retain(|link| link.index != 107);
    assert_eq!(
        of_others(harness.send([Event::Leases]).await),
        ["put PODS 1", "delete LOCAL_PODS 1"]
    );
    assert_eq!(harness.kernel().rows::<LocalPods>().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn row_of_a_lease_is_deleted_when_its_device_goes() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    harness.kernel().host.links.retain(|link| link.index != 107);
    let log = of_others(harness.send([device(7)]).await);
    assert_eq!(log, ["put PODS 1", "delete LOCAL_PODS 1"]);
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
    let log = of_others(harness.send([Event::Leases]).await);
    assert_eq!(log, ["attach pod 108", "put PODS 1", "put LOCAL_PODS 1"]);
    let (status, message) = harness.status(Concern::Pods);
    assert_eq!(status, Status::Failed);
    assert!(message.starts_with("pod shop/pod-7: attach pod 107: "), "{message}");
    let log = harness.run_for(Duration::from_millis(250)).await;
    assert_eq!(log, ["attach pod 107", "put PODS 1", "put LOCAL_PODS 1"]);
    assert!(harness.condition(Concern::Pods).is_none());
}

/// A notification about the device of pod `n`.
fn device(n: u8) -> Event {
    let devices = [100 + u32::from(n)].into();
    Event::PodNetwork(PodScope { devices, ..PodScope::default() })
}

/// A notification about the route to pod `n`, by another program.
fn address(n: u8) -> Event {
    let addresses = [[10, 244, 1, n].into()].into();
    Event::PodNetwork(PodScope { addresses, ..PodScope::default() })
}

/// A notification about the route of ADD to pod `n`.
fn route_of_add(n: u8) -> Event {
    let routed = [[10, 244, 1, n].into()].into();
    let pods = [100 + u32::from(n)].into();
    Event::PodNetwork(PodScope { pods, routed, ..PodScope::default() })
}

fn remove_parts(harness: &mut Harness, n: u8, parts: &[PathPart]) {
    let missing = parts.iter().copied().collect();
    harness.kernel().missing.insert(pod(n).0.host_ifname, missing);
}

#[tokio::test(start_paused = true)]
async fn parts_removed_by_another_program_are_restored_at_once() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    for (part, event) in [
        (PathPart::Sysctls, device(7)),
        (PathPart::Neighbour, device(7)),
        (PathPart::Route, address(7)),
    ] {
        remove_parts(&mut harness, 7, &[part]);
        let log = harness.send([event]).await;
        assert_eq!(log, [format!("restore {} 10.244.1.7", part.label())]);
    }
    harness.kernel().pod_hooks.remove(&107);
    assert_eq!(harness.send([device(7)]).await, ["attach pod 107"]);
    let repairs = harness.state().repairs();
    for kind in ["pod_sysctls", "pod_neighbour", "pod_route"] {
        assert_eq!(repairs.get(kind), Some(&1), "{kind} in {repairs:?}");
    }
    assert_eq!(repairs["pod_programs"], 3, "two at the start");
}

#[tokio::test(start_paused = true)]
async fn device_set_down_is_set_up_with_its_route_and_entry() {
    let (mut harness, _) = with_pods(&[7]).await;
    let link = harness.kernel().host.links.last_mut().unwrap();
    (link.up, link.alias) = (false, Some("shop/pod-7 eth0 c7".to_owned()));
    remove_parts(&mut harness, 7, &[PathPart::Neighbour, PathPart::Route]);
    assert_eq!(
        harness.send([device(7)]).await,
        ["restore device 10.244.1.7", "restore neighbour 10.244.1.7", "restore route 10.244.1.7"]
    );
}

#[tokio::test(start_paused = true)]
async fn cost_of_a_notification_is_one_pod() {
    let numbers: Vec<u8> = (2..=251).collect();
    let (mut harness, _) = with_pods(&numbers).await;
    harness.kernel().paths_read = 0;
    harness.kernel().fail("list paths", usize::MAX, libc::EIO);
    harness.send([device(7)]).await;
    harness.send([address(9)]).await;
    assert_eq!(harness.kernel().paths_read, 2);
    // Devices and addresses of others, and the frequent check.
    harness.kernel().fail("read leases", usize::MAX, libc::EIO);
    let other = PodScope {
        devices: [3].into(),
        addresses: [[172, 18, 0, 9].into()].into(),
        ..PodScope::default()
    };
    harness.send([Event::PodNetwork(other)]).await;
    harness.run_for(Duration::from_secs(20)).await;
    assert!(harness.condition(Concern::Pods).is_none());
}

/// ADD creates entry and route after it has set the device up; a network with the route is complete.
#[tokio::test(start_paused = true)]
async fn route_of_a_running_add_is_left_to_it() {
    let (mut harness, _) = with_pods(&[]).await;
    let (mut lease, link) = pod(7);
    lease.since.seconds = harness.kernel().boot_instant.seconds;
    harness.kernel().leases.push(lease);
    harness.kernel().host.links.push(link);
    remove_parts(&mut harness, 7, &[PathPart::Sysctls, PathPart::Neighbour, PathPart::Route]);
    let log = of_others(harness.send([Event::Leases]).await);
    assert_eq!(
        log,
        ["attach pod 107", "put PODS 1", "put LOCAL_PODS 1", "restore sysctls 10.244.1.7"]
    );
    assert_eq!(harness.run_for(Duration::from_secs(5)).await, Vec::<String>::new());
    // The route is deleted before the agent has read it.
    let mut other = pod(8);
    other.0.since.seconds = harness.kernel().boot_instant.seconds;
    harness.kernel().leases.push(other.0);
    harness.kernel().host.links.push(other.1);
    remove_parts(&mut harness, 8, &[PathPart::Route]);
    let log = harness.send([route_of_add(8)]).await;
    assert_eq!(log.last().unwrap(), "restore route 10.244.1.8");
    // The ADD of the first never ended.
    harness.kernel().boot_instant.seconds += 10;
    let log = harness.run_for(Duration::from_secs(1)).await;
    assert_eq!(log, ["restore neighbour 10.244.1.7", "restore route 10.244.1.7"]);
}

#[tokio::test(start_paused = true)]
async fn route_of_a_new_pod_is_restored_once_it_was_complete() {
    let (mut harness, _) = with_pods(&[]).await;
    let (mut lease, link) = pod(7);
    lease.since.seconds = harness.kernel().boot_instant.seconds;
    harness.kernel().leases.push(lease);
    harness.kernel().host.links.push(link);
    harness.send([Event::Leases]).await;
    remove_parts(&mut harness, 7, &[PathPart::Route]);
    assert_eq!(harness.send([address(7)]).await, ["restore route 10.244.1.7"]);
}

#[tokio::test(start_paused = true)]
async fn failed_restoration_is_repeated_without_an_event() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    remove_parts(&mut harness, 7, &[PathPart::Route]);
    harness.kernel().fail("restore route", 1, libc::EBUSY);
    harness.send([address(7)]).await;
    let (status, message) = harness.status(Concern::Pods);
    assert_eq!(status, Status::Failed);
    assert!(message.starts_with("pod shop/pod-7: restore route 10.244.1.7: "), "{message}");
    let log = harness.run_for(Duration::from_millis(250)).await;
    assert_eq!(log, ["restore route 10.244.1.7"]);
    assert!(harness.condition(Concern::Pods).is_none());
}

#[tokio::test(start_paused = true)]
async fn part_that_cannot_be_restored_does_not_keep_the_others_from_it() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    remove_parts(&mut harness, 7, &[PathPart::Sysctls, PathPart::Route]);
    harness.kernel().fail("restore sysctls", usize::MAX, libc::EROFS);
    let log = harness.send([address(7)]).await;
    assert!(log.contains(&"restore route 10.244.1.7".to_owned()), "{log:?}");
    let (status, message) = harness.status(Concern::Pods);
    assert_eq!(status, Status::Failed);
    assert!(message.contains("restore sysctls"), "{message}");
}

/// Another process holds the lock of the leases for longer than the agent waits.
#[tokio::test(start_paused = true)]
async fn without_the_lock_programs_and_paths_are_repaired_and_the_rows_follow() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    for (_, row) in harness.kernel().rows::<LocalPods>() {
        harness.kernel().overwrite::<Pods>(u32::from(row.index), LocalPod::default());
    }
    harness.kernel().pod_hooks.clear();
    remove_parts(&mut harness, 8, &[PathPart::Route]);
    // The second attempt would succeed: the agent does not wait twice in a pass.
    harness.kernel().fail("lock leases", 1, libc::ETIMEDOUT);
    let log = harness.send([Event::PodNetwork(PodScope::all())]).await;
    assert_eq!(log, ["attach pod 107", "attach pod 108", "restore route 10.244.1.8"]);
    let condition = harness.condition(Concern::Pods).unwrap();
    assert_eq!(condition.message.matches("pod shop/").count(), 2, "{condition:?}");
    let log = harness.run_for(Duration::from_millis(250)).await;
    assert_eq!(log, ["put PODS 1", "put PODS 1"]);
    assert!(harness.condition(Concern::Pods).is_none());
}

#[tokio::test(start_paused = true)]
async fn interrupted_dump_is_repeated_for_all_pods() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    remove_parts(&mut harness, 8, &[PathPart::Route]);
    harness.kernel().fail("list paths", 1, libc::EINTR);
    let log = harness.send([Event::PodNetwork(PodScope::all())]).await;
    assert_eq!(log, Vec::<String>::new());
    let log = harness.run_for(Duration::from_millis(250)).await;
    assert_eq!(log, ["restore route 10.244.1.8"]);
}

#[tokio::test(start_paused = true)]
async fn programs_attached_by_tcx_are_checked_frequently() {
    let mut kernel = FakeKernel::new(host());
    kernel.by_tcx.insert(107);
    for (lease, link) in [pod(7), pod(8)] {
        kernel.leases.push(lease);
        kernel.host.links.push(link);
    }
    let mut harness = Harness::with(&[], kernel);
    harness.run_until_idle().await;
    harness.kernel().pod_hooks.clear();
    assert_eq!(
        harness.run_for(Duration::from_millis(600)).await,
        ["attach pod 107"],
        "the kernel notifies of the other"
    );
}
