//! UDP sockets whose frontends do not lead to their backends any more.

use std::net::IpAddr;
use std::time::Duration;

use sluice_abi::{Addr, FrontendKey, PortBe, UdpSocket, proto};
use sluice_core::Object;
use sluice_core::model::{ExternalAccess, Kind, Protocol};
use sluice_core::table::{Backends, Frontends, UdpSockets};

use super::with_pods;
use crate::conditions::{Concern, Status};
use crate::harness::{Harness, delete, lists, service, slice};
use crate::kernel::ClosedSockets;

/// ClusterIPs of the Services `dns` and `other`.
const DNS: &str = "10.96.0.10";
const OTHER: &str = "10.96.0.11";
/// An external IP.
const EXTERNAL: &str = "203.0.113.1";
/// Endpoints.
const ONE: &str = "10.244.2.7";
const TWO: &str = "10.244.2.8";

/// Time in which a comparison is repeated.
const REPEATED: Duration = Duration::from_secs(2);

fn udp(name: &str, vip: &str) -> Object {
    service(name, Protocol::Udp, vip, 1)
}

fn of(name: &str, addresses: &[&str]) -> Object {
    slice(name, Protocol::Udp, addresses)
}

fn dns(addresses: &[&str]) -> Vec<Object> {
    vec![udp("dns", DNS), of("dns", addresses)]
}

fn with_external_ip(service: Object, ip: &str) -> Object {
    let Object::Service(mut service) = service else { unreachable!() };
    let access = ExternalAccess { ips: [ip.parse().unwrap()].into(), ..ExternalAccess::default() };
    service.external = Some(Box::new(access));
    Object::Service(service)
}

fn addr(address: &str) -> Addr {
    address.parse::<IpAddr>().unwrap().into()
}

/// What the programs record of a socket that connects to port 80 of a Service now, and gets this backend.
fn connect(harness: &mut Harness, cookie: u64, vip: &str, backend: &str) {
    let (frontend, backend) = (addr(vip), addr(backend));
    let key = FrontendKey { addr: frontend, port: PortBe::new(80), proto: proto::UDP, pad: 0 };
    let kernel = harness.kernel();
    let frontends = kernel.rows::<Frontends>();
    let (_, row) = frontends.iter().find(|(k, _)| *k == key).expect("a frontend");
    let backends = kernel.rows::<Backends>();
    let owned = backends.iter().find(|(_, b)| b.addr == backend && b.service == row.service);
    let socket = UdpSocket {
        netns_cookie: 4711,
        backend,
        frontend,
        backend_port: PortBe::new(8080),
        frontend_port: key.port,
        backend_id: owned.expect("a backend").0,
    };
    kernel.overwrite::<UdpSockets>(cookie, socket);
}

/// The programs remove the entry of a socket that is closed.
fn release(harness: &mut Harness, cookie: u64) {
    let map = harness.kernel().maps.get_mut("UDP_SOCKETS").expect("a map");
    map.remove(&cookie.to_ne_bytes()[..]);
}

fn closed(log: Vec<String>) -> Vec<String> {
    log.into_iter().filter(|l| l.starts_with("close UDP sockets")).collect()
}

#[tokio::test(start_paused = true)]
async fn sockets_of_removed_backends_are_closed_after_the_maps_are_written() {
    let (mut harness, _) = with_pods(&[7]).await;
    harness.send(lists(dns(&[ONE, TWO]))).await;
    connect(&mut harness, 1, DNS, ONE);
    connect(&mut harness, 2, DNS, TWO);
    let log = harness.apply(of("dns", &[TWO, "10.244.2.5"])).await;
    let expected = [
        "put BACKENDS 1",
        "put SLOTS 2",
        "put SERVICES 1",
        "delete BACKENDS 1",
        "close UDP sockets 1 pods 1",
    ];
    assert_eq!(log, expected);
}

#[tokio::test(start_paused = true)]
async fn sockets_of_another_service_with_the_same_endpoint_stay_open() {
    let mut objects = dns(&[ONE, TWO]);
    objects.extend([udp("other", OTHER), of("other", &[ONE])]);
    let mut harness = Harness::ready_with(objects).await;
    connect(&mut harness, 1, DNS, ONE);
    connect(&mut harness, 2, OTHER, ONE);
    let log = harness.apply(of("dns", &[TWO])).await;
    assert_eq!(closed(log), ["close UDP sockets 1 pods 0"]);
}

#[tokio::test(start_paused = true)]
async fn sockets_are_closed_when_another_service_takes_their_frontend_over() {
    let objects = vec![
        with_external_ip(udp("dns", DNS), EXTERNAL),
        of("dns", &[ONE]),
        udp("other", OTHER),
        of("other", &[TWO]),
    ];
    let mut harness = Harness::ready_with(objects).await;
    connect(&mut harness, 1, EXTERNAL, ONE);
    connect(&mut harness, 2, DNS, ONE);
    connect(&mut harness, 3, OTHER, TWO);
    // The former Service keeps the endpoint and its other address.
    harness.apply(with_external_ip(udp("other", OTHER), EXTERNAL)).await;
    let log = harness.apply(udp("dns", DNS)).await;
    assert_eq!(closed(log), ["close UDP sockets 1 pods 0"]);
}

#[tokio::test(start_paused = true)]
async fn sockets_of_a_frontend_that_ends_are_closed() {
    let mut harness = Harness::ready_with(dns(&[ONE])).await;
    connect(&mut harness, 1, DNS, ONE);
    let log = harness.send([delete(Kind::Service, "shop/dns")]).await;
    assert_eq!(closed(log), ["close UDP sockets 1 pods 0"]);
}

/// A ready endpoint that is not selected, here because of its hints, keeps its sockets.
#[tokio::test(start_paused = true)]
async fn sockets_of_unselected_backends_stay_open() {
    let mut harness = Harness::ready_with(dns(&[ONE, TWO])).await;
    connect(&mut harness, 1, DNS, ONE);
    let Object::EndpointSlice(mut slice) = of("dns", &[ONE, TWO]) else { unreachable!() };
    for (endpoint, node) in slice.endpoints.iter_mut().zip(["n2", "n1"]) {
        endpoint.hints.get_or_insert_default().nodes.push(node.into());
    }
    let mut log = harness.apply(Object::EndpointSlice(slice)).await;
    assert!(log.contains(&"put SLOTS 1".to_owned()), "{log:?}");
    log.extend(harness.run_for(REPEATED).await);
    assert_eq!(closed(log), Vec::<String>::new());
}

/// The agent was killed between the maps and the sockets.
#[tokio::test(start_paused = true)]
async fn next_agent_closes_the_sockets_that_the_last_one_left_open() {
    let mut harness = Harness::ready_with(dns(&[ONE, TWO])).await;
    connect(&mut harness, 1, DNS, ONE);
    connect(&mut harness, 2, DNS, TWO);
    harness.kernel().fail("close UDP sockets", 1, libc::EAGAIN);
    let log = harness.apply(of("dns", &[TWO])).await;
    assert_eq!(closed(log), Vec::<String>::new());
    let mut harness = harness.restart();
    let before = harness.run_until_idle().await;
    assert_eq!(closed(before), Vec::<String>::new(), "its own tables are not known yet");
    let log = harness.send(lists(dns(&[TWO]))).await;
    assert_eq!(closed(log), ["close UDP sockets 1 pods 0"]);
}

#[tokio::test(start_paused = true)]
async fn failed_closing_is_a_condition_and_is_retried() {
    let mut harness = Harness::ready_with(dns(&[ONE, TWO])).await;
    connect(&mut harness, 1, DNS, ONE);
    harness.kernel().fail("close UDP sockets", 1, libc::EAGAIN);
    let log = harness.send([delete(Kind::Service, "shop/dns")]).await;
    assert_eq!(closed(log), Vec::<String>::new());
    assert_eq!(harness.status(Concern::StaleSockets).0, Status::Failed);
    // One socket of those that were tried.
    let failure =
        ClosedSockets { sockets: 2, ..ClosedSockets::failed("close a socket".to_owned()) };
    harness.kernel().closings.push_back(Some(failure));
    let log = harness.run_for(Duration::from_millis(250)).await;
    assert_eq!(closed(log), ["close UDP sockets 1 pods 0"]);
    assert_eq!(harness.status(Concern::StaleSockets), (Status::Failed, "close a socket"));
    harness.kernel().closings.clear();
    let log = harness.run_for(REPEATED).await;
    assert_eq!(closed(log)[0], "close UDP sockets 1 pods 0");
    assert!(harness.condition(Concern::StaleSockets).is_none());
}

#[tokio::test(start_paused = true)]
async fn kernel_that_cannot_close_sockets_is_a_condition_with_the_remedy() {
    let mut harness = Harness::ready_with(dns(&[ONE, TWO])).await;
    connect(&mut harness, 1, DNS, ONE);
    let refused = || Some(ClosedSockets { unsupported: 1, ..ClosedSockets::default() });
    harness.kernel().closings.extend([refused(), None, refused()]);
    harness.send([delete(Kind::Service, "shop/dns")]).await;
    let (status, message) = harness.status(Concern::StaleSockets);
    assert_eq!(status, Status::Degraded);
    assert!(message.contains("CONFIG_INET_DIAG_DESTROY"), "{message}");
    // It stays while a further comparison runs, and ends with the socket.
    harness.run_for(Duration::from_millis(600)).await;
    assert_eq!(harness.status(Concern::StaleSockets).0, Status::Degraded);
    release(&mut harness, 1);
    harness.run_for(Duration::from_secs(31)).await;
    assert!(harness.condition(Concern::StaleSockets).is_none());
}

#[tokio::test(start_paused = true)]
async fn change_while_sockets_are_being_closed_is_not_lost() {
    let mut harness = Harness::ready_with(dns(&[ONE, TWO])).await;
    connect(&mut harness, 1, DNS, ONE);
    connect(&mut harness, 2, DNS, TWO);
    harness.kernel().closings.extend([None, None]);
    let log = harness.apply(of("dns", &[TWO])).await;
    assert_eq!(closed(log), ["close UDP sockets 1 pods 0"]);
    let log = harness.send([delete(Kind::Service, "shop/dns")]).await;
    assert_eq!(closed(log), Vec::<String>::new(), "one closing at a time");
    release(&mut harness, 1);
    let log = harness.run_for(Duration::from_millis(600)).await;
    assert_eq!(closed(log), ["close UDP sockets 2 pods 0"]);
}

/// A thread that was in connect(2) during the change.
#[tokio::test(start_paused = true)]
async fn socket_that_is_recorded_during_the_change_is_closed_with_the_next_poll() {
    let mut harness = Harness::ready_with(dns(&[ONE, TWO])).await;
    connect(&mut harness, 1, DNS, ONE);
    let entries = harness.kernel().rows::<UdpSockets>();
    release(&mut harness, 1);
    let log = harness.apply(of("dns", &[TWO])).await;
    assert_eq!(closed(log), Vec::<String>::new());
    harness.kernel().overwrite::<UdpSockets>(1, entries[0].1);
    let log = harness.run_for(Duration::from_millis(600)).await;
    assert_eq!(closed(log), ["close UDP sockets 1 pods 0"]);
}

#[tokio::test(start_paused = true)]
async fn sockets_are_closed_after_a_failed_write_too() {
    let mut harness = Harness::ready_with(dns(&[ONE])).await;
    connect(&mut harness, 1, DNS, ONE);
    harness.kernel().fail("delete BACKENDS", 1, libc::EIO);
    let log = harness.send([delete(Kind::Service, "shop/dns")]).await;
    assert_eq!(closed(log), Vec::<String>::new());
    let log = harness.run_for(Duration::from_millis(400)).await;
    assert_eq!(closed(log), ["close UDP sockets 1 pods 0"]);
}

#[tokio::test(start_paused = true)]
async fn sockets_of_a_backend_that_returns_before_the_retry_stay_open() {
    let mut harness = Harness::ready_with(dns(&[ONE])).await;
    connect(&mut harness, 1, DNS, ONE);
    harness.kernel().fail("delete BACKENDS", 2, libc::EIO);
    let mut log = harness.send([delete(Kind::EndpointSlice, "shop/dns")]).await;
    log.extend(harness.apply(of("dns", &[ONE])).await);
    log.extend(harness.run_for(REPEATED).await);
    assert_eq!(closed(log), Vec::<String>::new());
    assert_eq!(harness.state().conditions.iter().count(), 0);
}
