//! UDP sockets of removed backends.

use std::time::Duration;

use sluice_core::Object;
use sluice_core::model::{Kind, Protocol};

use super::with_pods;
use crate::conditions::Concern;
use crate::harness::{Harness, delete, lists, service, slice};

fn dns(addresses: &[&str]) -> Vec<sluice_core::Object> {
    vec![service("dns", Protocol::Udp, "10.96.0.10", 1), slice("dns", Protocol::Udp, addresses)]
}

fn closed(log: Vec<String>) -> Vec<String> {
    log.into_iter().filter(|l| l.starts_with("close UDP sockets")).collect()
}

#[tokio::test(start_paused = true)]
async fn sockets_of_removed_backends_are_closed_after_the_maps_are_written() {
    let (mut harness, _) = with_pods(&[7]).await;
    harness.send(lists(dns(&["10.244.2.7", "10.244.2.8", "10.244.2.9"]))).await;
    let log = harness.apply(slice("dns", Protocol::Udp, &["10.244.2.8", "10.244.2.5"])).await;
    assert_eq!(
        log,
        [
            "put BACKENDS 1",
            "put SLOTS 2",
            "put SERVICES 1",
            "delete BACKENDS 2",
            "close UDP sockets 10.244.2.7:8080 10.244.2.9:8080 pods 1",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn sockets_of_tcp_backends_are_left_alone() {
    let mut harness = Harness::ready_with(crate::harness::web(&["10.244.2.7"])).await;
    let log = harness.send([delete(Kind::Service, "shop/web")]).await;
    assert!(log.contains(&"delete BACKENDS 1".to_owned()), "{log:?}");
    assert_eq!(closed(log), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn failed_closing_is_retried_without_backends_that_returned() {
    let mut harness = Harness::ready_with(dns(&["10.244.2.7", "10.244.2.8"])).await;
    harness.kernel().fail("close UDP sockets", 1, libc::EAGAIN);
    let log = harness.send([delete(Kind::Service, "shop/dns")]).await;
    assert_eq!(closed(log), Vec::<String>::new());
    assert!(harness.condition(Concern::StaleSockets).is_some());
    harness.kernel().fail("close UDP sockets", 1, libc::EAGAIN);
    harness.send(lists(dns(&["10.244.2.8"]))).await;
    let log = harness.run_for(Duration::from_secs(2)).await;
    assert_eq!(closed(log), ["close UDP sockets 10.244.2.7:8080 pods 0"]);
    assert!(harness.condition(Concern::StaleSockets).is_none());
}

/// A ready endpoint that is not selected, here because of its hints, keeps its sockets.
#[tokio::test(start_paused = true)]
async fn failed_closing_is_retried_without_backends_that_returned_unselected() {
    let mut harness = Harness::ready_with(dns(&["10.244.2.7", "10.244.2.8"])).await;
    harness.kernel().fail("close UDP sockets", 2, libc::EAGAIN);
    harness.send([delete(Kind::Service, "shop/dns")]).await;
    let mut returned = dns(&["10.244.2.7", "10.244.2.5"]);
    for object in &mut returned {
        if let Object::EndpointSlice(slice) = object {
            for (endpoint, node) in slice.endpoints.iter_mut().zip(["n2", "n1"]) {
                endpoint.hints.get_or_insert_default().nodes.push(node.into());
            }
        }
    }
    harness.send(lists(returned)).await;
    let log = harness.run_for(Duration::from_secs(5)).await;
    assert_eq!(closed(log), ["close UDP sockets 10.244.2.8:8080 pods 0"]);
}

#[tokio::test(start_paused = true)]
async fn sockets_are_closed_after_a_failed_write_too() {
    let mut harness = Harness::ready_with(dns(&["10.244.2.7"])).await;
    harness.kernel().fail("delete BACKENDS", 1, libc::EIO);
    let log = harness.send([delete(Kind::Service, "shop/dns")]).await;
    assert_eq!(closed(log), Vec::<String>::new());
    let log = harness.run_for(Duration::from_secs(1)).await;
    assert_eq!(closed(log), ["close UDP sockets 10.244.2.7:8080 pods 0"]);
}

#[tokio::test(start_paused = true)]
async fn sockets_of_a_backend_that_returns_before_the_retry_stay_open() {
    let mut harness = Harness::ready_with(dns(&["10.244.2.7"])).await;
    harness.kernel().fail("delete BACKENDS", 2, libc::EIO);
    let mut log = harness.send([delete(Kind::Service, "shop/dns")]).await;
    log.extend(harness.apply(service("dns", Protocol::Udp, "10.96.0.10", 1)).await);
    log.extend(harness.run_for(Duration::from_secs(2)).await);
    assert_eq!(closed(log), Vec::<String>::new());
    assert_eq!(harness.state().conditions.iter().count(), 0);
}
