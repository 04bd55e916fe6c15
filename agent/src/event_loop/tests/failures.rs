//! Operations that fail.

use std::time::Duration;

use sluice_core::model::Protocol;
use sluice_core::table::{Backends, Services};

use super::only;
use crate::conditions::{Concern, Status};
use crate::event::Event;
use crate::harness::{Harness, link, lists, node, slice, web};
use crate::kernel::Hop;

#[tokio::test(start_paused = true)]
async fn failed_write_is_repeated_after_a_read_back_without_an_event() {
    let mut harness = Harness::ready_with(web(&["10.244.2.7"])).await;
    harness.kernel().fail("put SERVICES", 1, libc::ENOSPC);
    let log = harness.apply(slice("web", Protocol::Tcp, &["10.244.2.7", "10.244.2.8"])).await;
    assert_eq!(log, ["put BACKENDS 1", "put SLOTS 2", "failed: put SERVICES 1"]);
    assert_eq!(harness.status(Concern::ServiceMaps).0, Status::Failed);
    // The failed write left the maps in a state that only a read-back shows.
    let backends = harness.kernel().rows::<Backends>();
    let lost = backends.last().unwrap().0;
    let map = harness.kernel().maps.get_mut("BACKENDS").unwrap();
    map.remove(&lost.to_ne_bytes()[..]);
    assert_eq!(harness.run_for(Duration::from_millis(190)).await, Vec::<String>::new());
    let log = harness.run_for(Duration::from_millis(20)).await;
    assert_eq!(log, ["put BACKENDS 1", "put SLOTS 2", "put SERVICES 1"]);
    assert!(harness.condition(Concern::ServiceMaps).is_none());
    let services = harness.kernel().rows::<Services>();
    assert_eq!(services.iter().map(|(_, port)| port.cluster.len).max(), Some(2));
}

#[tokio::test(start_paused = true)]
async fn failed_read_back_is_repeated() {
    let mut harness = Harness::ready_with(web(&["10.244.2.7"])).await;
    harness.kernel().fail("put SERVICES", 1, libc::ENOSPC);
    harness.apply(slice("web", Protocol::Tcp, &["10.244.2.8"])).await;
    harness.kernel().fail("read BACKENDS", 2, libc::EIO);
    let log = harness.run_for(Duration::from_millis(900)).await;
    assert_eq!(log, Vec::<String>::new());
    assert!(harness.status(Concern::ServiceMaps).1.starts_with("read BACKENDS: "));
    let log = harness.run_for(Duration::from_secs(2)).await;
    assert_eq!(only(&log, "put SERVICES"), ["put SERVICES 1"]);
    assert!(harness.condition(Concern::ServiceMaps).is_none());
}

#[tokio::test(start_paused = true)]
async fn retries_are_spaced_exponentially_and_restart_after_a_success() {
    let mut harness = Harness::ready_with(vec![]).await;
    let failures = |log: &[String]| only(log, "failed: put FRONTENDS").len();
    harness.kernel().fail("put FRONTENDS", usize::MAX, libc::ENOSPC);
    let log = harness.send(lists(web(&["10.244.2.7"]))).await;
    assert_eq!(failures(&log), 1);
    // Attempts after 0.2, 0.6, 1.4, 3.0 and 6.2 s; none in between.
    for (until, attempts) in [(201, 1), (590, 0), (601, 1), (1390, 0), (1401, 1), (6210, 2)] {
        let now = harness.state().conditions.get(Concern::ServiceMaps).unwrap().since;
        let elapsed = tokio::time::Instant::now().into_std() - now;
        let log = harness.run_for(Duration::from_millis(until) - elapsed).await;
        assert_eq!(failures(&log), attempts, "until {until} ms");
    }
    harness.kernel().heal();
    harness.run_for(Duration::from_secs(15)).await;
    assert!(harness.condition(Concern::ServiceMaps).is_none());
    harness.kernel().fail("put SERVICES", 1, libc::ENOSPC);
    harness.apply(slice("web", Protocol::Tcp, &["10.244.2.8"])).await;
    let log = harness.run_for(Duration::from_millis(210)).await;
    assert_eq!(only(&log, "put SERVICES").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn failing_route_keeps_nothing_else_from_being_programmed() {
    let mut harness = Harness::new();
    harness.kernel().fail("put route 10.244.2.0/24", usize::MAX, libc::EHOSTUNREACH);
    let nodes = vec![
        node("n1", "172.18.0.2", "10.244.1.0/24"),
        node("n2", "192.168.9.9", "10.244.2.0/24"),
        node("n3", "172.18.0.4", "10.244.3.0/24"),
    ];
    let log = harness.send(lists([web(&["10.244.2.7"]), nodes].concat())).await;
    assert_eq!(only(&log, "put FRONTENDS"), ["put FRONTENDS 2"]);
    assert_eq!(
        only(&log, "put route"),
        ["put route 10.244.1.0/24 unreachable", "put route 10.244.3.0/24 via 172.18.0.4"]
    );
    assert!(harness.state().ready());
    let (status, message) = harness.status(Concern::Routes);
    assert_eq!(status, Status::Failed);
    assert!(message.starts_with("put route 10.244.2.0/24 via 192.168.9.9: "), "{message}");
    harness.kernel().heal();
    harness.run_for(Duration::from_secs(1)).await;
    assert!(harness.condition(Concern::Routes).is_none());
    assert_eq!(harness.kernel().routes.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn interrupted_dump_of_routes_deletes_nothing() {
    let mut harness = Harness::ready_with(vec![]).await;
    harness.kernel().routes.insert("10.244.9.0/24".parse().unwrap(), Hop::Unreachable);
    harness.kernel().fail("list routes", 1, libc::EINTR);
    let log = harness.send([Event::HostNetwork]).await;
    assert_eq!(log, Vec::<String>::new());
    let log = harness.run_for(Duration::from_millis(250)).await;
    assert_eq!(log, ["delete route 10.244.9.0/24"]);
}

#[tokio::test(start_paused = true)]
async fn interrupted_dump_of_devices_keeps_the_uplink() {
    let mut harness = Harness::ready_with(vec![]).await;
    harness.kernel().host.links.push(link(4, "eth2"));
    harness.kernel().fail("read host state", 1, libc::EINTR);
    harness.send([Event::HostNetwork]).await;
    assert_eq!(harness.status(Concern::HostState).0, Status::Failed);
    assert_eq!(harness.state().uplink().unwrap().link.index, 2);
    harness.run_for(Duration::from_millis(250)).await;
    assert_eq!(harness.state().conditions.iter().count(), 0);
}
