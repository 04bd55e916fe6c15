//! Maps that are replaced by larger ones.

use std::time::Duration;

use sluice_core::Change;
use sluice_core::diff::Capacity;
use sluice_core::model::{Kind, Object, Protocol};
use sluice_core::table::{Backends, Frontends};

use super::{only, position, ready_flag};
use crate::conditions::{Concern, Status};
use crate::event::Event;
use crate::harness::{Harness, delete, lists, node, pod, service, slice};

/// Services `s<n>` with one endpoint each: two frontends, a slot and a backend.
fn services(numbers: std::ops::RangeInclusive<i64>) -> Vec<Object> {
    let of = |n: i64| {
        let (name, ip) = (format!("s{n}"), format!("10.96.0.{n}"));
        [service(&name, Protocol::Tcp, &ip, n), slice(&name, Protocol::Tcp, &["10.244.2.7"])]
    };
    numbers.flat_map(of).collect()
}

fn applied(objects: Vec<Object>) -> Vec<Event> {
    objects.into_iter().map(|object| Event::Objects(Change::Apply(object))).collect()
}

/// The same capacity of every map that grows.
fn each(entries: u32) -> Capacity {
    Capacity::NONE.with(|_| entries)
}

/// A node with a pod, whose maps have 8 entries each.
fn small() -> Harness {
    sized(each(8))
}

fn sized(capacity: Capacity) -> Harness {
    let mut harness = Harness::with_capacity(capacity, Capacity::default());
    let (lease, link) = pod(7);
    harness.kernel().leases.push(lease);
    harness.kernel().host.links.push(link);
    harness
}

/// As [`small`], with three Services.
async fn running() -> Harness {
    with_services(small()).await
}

async fn with_services(mut harness: Harness) -> Harness {
    let log = harness.send(lists(services(1..=3))).await;
    assert_eq!(only(&log, "grow"), Vec::<&str>::new());
    assert!(harness.state().ready());
    harness
}

fn frontends(harness: &mut Harness) -> usize {
    harness.kernel().rows::<Frontends>().len()
}

#[tokio::test(start_paused = true)]
async fn first_lists_that_do_not_fit_are_written_once_into_larger_maps() {
    let mut harness = small();
    harness.run_until_idle().await;
    let log = harness.send(lists(services(1..=10))).await;
    // There are no policies.
    assert_eq!(only(&log, "grow"), ["grow 32 16 16 16 8 8"]);
    assert_eq!(only(&log, "put FRONTENDS"), ["put FRONTENDS 20"]);
    assert_eq!(only(&log, "put BACKENDS"), ["put BACKENDS 10"]);
    let at = |label| position(&log, label);
    assert!(at("grow") < at("put BACKENDS"), "{log:?}");
    let last = |label: &str| log.iter().rposition(|l| l.starts_with(label)).unwrap();
    assert!(at("put FRONTENDS") < last("put NODE_CONFIG"), "{log:?}");
    // No program uses the former maps, so there is nothing to hand over.
    assert_eq!(only(&log, "hand over"), Vec::<&str>::new());
    for label in ["attach uplink 2", "attach sockets", "attach pod 107"] {
        assert!(last(label) > at("grow"), "{label} in {log:?}");
    }
    assert!(ready_flag(&mut harness) && harness.state().ready());
    assert_eq!(harness.state().conditions.iter().count(), 0);
    assert_eq!(harness.state().capacity().frontends, 32);
}

#[tokio::test(start_paused = true)]
async fn services_that_do_not_fit_are_served_by_larger_maps_in_the_same_round() {
    let mut harness = running().await;
    let rows = harness.kernel().rows::<Frontends>();
    let repairs = harness.state().repairs().clone();
    let log = harness.send(applied(services(4..=10))).await;
    assert_eq!(only(&log, "grow").len(), 1, "{log:?}");
    assert_eq!(frontends(&mut harness), 20);
    // What was there stays as it was.
    let after = harness.kernel().rows::<Frontends>();
    assert!(rows.iter().all(|row| after.contains(row)));
    // What fits is served at once; the hooks are switched when all is written, and then their
    // programs are replaced.
    let (grown, switched) = (position(&log, "grow"), position(&log, "hand over"));
    assert!(position(&log, "put FRONTENDS") < grown, "{log:?}");
    let last = log.iter().rposition(|label| label.starts_with("put FRONTENDS")).unwrap();
    assert!(grown < last && last < switched, "{log:?}");
    for label in ["attach uplink 2", "attach sockets", "attach pod 107"] {
        assert!(position(&log, label) > switched, "{label} in {log:?}");
    }
    assert!(ready_flag(&mut harness) && harness.state().ready());
    let conditions: Vec<_> = harness.state().conditions.iter().map(|c| c.concern).collect();
    assert_eq!(conditions, [Concern::StalePins]);
    assert_eq!(harness.state().repairs(), &repairs, "none of it is a repair");
    // An ADD that has begun before may use the former programs.
    assert_eq!(harness.run_for(Duration::from_secs(9)).await, Vec::<String>::new());
    assert_eq!(harness.run_for(Duration::from_secs(2)).await, ["remove pins v4-1"]);
    assert_eq!(harness.state().conditions.iter().count(), 0);
    // The next Services fit.
    let log = harness.send(applied(services(11..=12))).await;
    assert_eq!(log, ["put BACKENDS 2", "put SLOTS 2", "put SERVICES 2", "put FRONTENDS 4"]);
}

#[tokio::test(start_paused = true)]
async fn failed_growth_keeps_what_fits_and_is_repeated_with_backoff() {
    let mut harness = running().await;
    harness.kernel().fail("grow", 5, libc::ENOMEM);
    let log = harness.send(applied(services(4..=10))).await;
    assert_eq!(only(&log, "hand over"), Vec::<&str>::new());
    assert_eq!(frontends(&mut harness), 8);
    let (status, message) = harness.status(Concern::Growth);
    assert_eq!(status, Status::Failed);
    assert!(message.contains("FRONTENDS 32") && message.contains("memory"), "{message}");
    let (status, message) = harness.status(Concern::Capacity);
    assert_eq!(status, Status::Degraded);
    assert!(message.contains("shop/s9:TCP") && !message.contains("shop/s3 "), "{message}");
    assert!(harness.state().ready());
    // Other changes are carried out meanwhile, and do not repeat it at once: 1 + 4 failures in 3 s.
    let log = harness.send(applied(vec![node("n2", "172.18.0.3", "10.244.2.0/24")])).await;
    assert!(!only(&log, "put NETWORKS").is_empty(), "{log:?}");
    harness.run_for(Duration::from_millis(2900)).await;
    assert_eq!(frontends(&mut harness), 8);
    assert_eq!(harness.status(Concern::Growth).0, Status::Failed);
    let log = harness.run_for(Duration::from_millis(3500)).await;
    assert_eq!(only(&log, "grow").len(), 1, "{log:?}");
    assert!(position(&log, "grow") < position(&log, "hand over"));
    assert_eq!(frontends(&mut harness), 20);
    for concern in [Concern::Growth, Concern::Capacity] {
        assert!(harness.condition(concern).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn first_lists_are_served_as_far_as_they_fit_while_growth_fails() {
    let mut harness = small();
    harness.kernel().fail("grow", 1, libc::ENOMEM);
    let log = harness.send(lists(services(1..=10))).await;
    assert_eq!(only(&log, "put FRONTENDS"), ["put FRONTENDS 8"]);
    assert!(ready_flag(&mut harness) && harness.state().ready());
    // The programs are in use by now.
    let log = harness.run_for(Duration::from_millis(250)).await;
    assert!(position(&log, "grow") < position(&log, "hand over"), "{log:?}");
    assert_eq!(frontends(&mut harness), 20);
}

#[tokio::test(start_paused = true)]
async fn growth_ends_when_the_services_that_did_not_fit_are_deleted() {
    let mut harness = running().await;
    harness.kernel().fail("grow", 1, libc::ENOMEM);
    harness.send(applied(services(4..=5))).await;
    assert_eq!(harness.status(Concern::Growth).0, Status::Failed);
    let log =
        harness.send([delete(Kind::Service, "shop/s5"), delete(Kind::Service, "shop/s4")]).await;
    assert_eq!(only(&log, "grow"), Vec::<&str>::new());
    for concern in [Concern::Growth, Concern::Capacity] {
        assert!(harness.condition(concern).is_none());
    }
    assert_eq!(harness.run_for(Duration::from_secs(60)).await, Vec::<String>::new());
}

/// Each attempt takes seconds of verification.
#[tokio::test(start_paused = true)]
async fn failed_growth_for_services_that_come_and_go_is_repeated_with_backoff() {
    let mut harness = running().await;
    harness.kernel().fail("grow", 1, libc::ENOMEM);
    for change in 0..20 {
        let log = harness.send(applied(services(4..=5))).await;
        assert_eq!(only(&log, "grow"), [] as [&str; 0], "change {change}");
        assert_eq!(harness.status(Concern::Growth).0, Status::Failed);
        assert_eq!(harness.status(Concern::Capacity).0, Status::Degraded);
        harness.send([delete(Kind::Service, "shop/s5"), delete(Kind::Service, "shop/s4")]).await;
        assert!(harness.condition(Concern::Growth).is_none(), "nothing is needed any more");
    }
    harness.send(applied(services(4..=5))).await;
    let log = harness.run_for(Duration::from_secs(1)).await;
    assert_eq!(only(&log, "grow").len(), 1, "{log:?}");
    assert!(harness.condition(Concern::Growth).is_none());
}

#[tokio::test(start_paused = true)]
async fn hooks_are_switched_only_when_the_larger_maps_are_written() {
    let mut harness = with_services(sized(Capacity { frontends: 8, ..each(64) })).await;
    // What fits is written before.
    harness.kernel().fail_after("put FRONTENDS", 1, 2, libc::ENOMEM);
    let log = harness.send(applied(services(4..=10))).await;
    assert_eq!(only(&log, "grow").len(), 1);
    assert_eq!(only(&log, "hand over"), Vec::<&str>::new());
    assert_eq!(harness.status(Concern::ServiceMaps).0, Status::Failed);
    assert!(!ready_flag(&mut harness), "the larger maps are not complete");
    let log = harness.run_for(Duration::from_secs(1)).await;
    assert_eq!(only(&log, "hand over").len(), 1, "{log:?}");
    assert_eq!(only(&log, "grow"), Vec::<&str>::new());
    assert!(ready_flag(&mut harness));
    assert_eq!(frontends(&mut harness), 20);
}

#[tokio::test(start_paused = true)]
async fn maps_grow_up_to_the_largest_capacity_and_say_what_does_not_fit() {
    let mut harness = Harness::with_capacity(each(8), each(12));
    harness.send(lists(services(1..=3))).await;
    let log = harness.send(applied(services(4..=10))).await;
    assert_eq!(only(&log, "grow").len(), 1, "{log:?}");
    assert_eq!(frontends(&mut harness), 12);
    let (status, message) = harness.status(Concern::Capacity);
    assert_eq!(status, Status::Degraded);
    assert!(message.contains("shop/s10") && message.contains("all 12 frontends"), "{message}");
    assert!(harness.condition(Concern::Growth).is_none());
    let log = harness.run_for(Duration::from_secs(60)).await;
    assert_eq!(only(&log, "grow"), Vec::<&str>::new());
    assert_eq!(harness.kernel().rows::<Backends>().len(), 10, "Service ports fit");
}

/// What is wrong with the configuration of the node must not freeze its Services.
#[tokio::test(start_paused = true)]
async fn degraded_configuration_does_not_keep_larger_maps_from_being_used() {
    let mut harness = running().await;
    harness.kernel().host.ephemeral_ports = (1024, 65_535);
    harness.run_for(Duration::from_secs(31)).await;
    assert_eq!(harness.status(Concern::NodeConfig).0, Status::Degraded);
    let log = harness.send(applied(services(4..=10))).await;
    assert_eq!(only(&log, "hand over").len(), 1, "{log:?}");
    assert_eq!(frontends(&mut harness), 20);
    assert_eq!(harness.status(Concern::NodeConfig).0, Status::Degraded);
}

/// Attached programs read the former maps until then.
#[tokio::test(start_paused = true)]
async fn changes_are_programmed_when_the_hooks_are_switched() {
    let mut harness = running().await;
    harness.kernel().fail("hand over", usize::MAX, libc::ENOMEM);
    let mut objects = services(4..=10);
    for object in &mut objects {
        if let Object::EndpointSlice(slice) = object {
            slice.trigger = Some(1);
        }
    }
    harness.programmed();
    harness.send(applied(objects)).await;
    harness.run_for(Duration::from_secs(5)).await;
    assert_eq!(harness.status(Concern::Migration).0, Status::Failed);
    assert_eq!(harness.programmed().len(), 0);
    harness.kernel().heal();
    harness.run_for(Duration::from_secs(10)).await;
    assert!(harness.condition(Concern::Migration).is_none());
    assert_eq!(harness.programmed().len(), 7);
}
