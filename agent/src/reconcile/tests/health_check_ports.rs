//! Servers of the healthCheckNodePorts.

use std::time::Duration;

use sluice_core::Object;
use sluice_core::model::{ExternalAccess, Kind, Port, Protocol};

use crate::conditions::{Concern, Status};
use crate::event::Event;
use crate::harness::{Harness, delete, host, lists, node, service, slice};
use crate::host::LocalAddress;
use crate::kernel::fake::FakeKernel;

/// A Service `shop/<name>` with this healthCheckNodePort.
fn balanced(name: &str, port: u16, created: i64) -> Object {
    let mut object = service(name, Protocol::Tcp, &format!("10.96.0.{created}"), created);
    if let Object::Service(service) = &mut object {
        let external =
            ExternalAccess { health_check_node_port: Port::new(port), ..ExternalAccess::default() };
        service.external = Some(Box::new(external));
    }
    object
}

/// Its endpoints, on this node.
fn local(name: &str, addresses: &[&str]) -> Object {
    let mut object = slice(name, Protocol::Tcp, addresses);
    if let Object::EndpointSlice(slice) = &mut object {
        slice.endpoints.iter_mut().for_each(|e| e.node_name = Some("n1".into()));
    }
    object
}

fn health_checks(log: Vec<String>) -> Vec<String> {
    log.into_iter().filter(|line| line.contains("health check")).collect()
}

#[tokio::test(start_paused = true)]
async fn contract_6_1_servers_open_and_close_with_the_health_check_node_port() {
    let mut harness = Harness::ready_with(vec![]).await;
    let log = harness.apply(balanced("web", 32_000, 1)).await;
    assert_eq!(health_checks(log), ["serve health check 32000 shop/web 0"]);
    let log = harness.apply(local("web", &["10.244.1.7", "10.244.1.8"])).await;
    assert_eq!(health_checks(log), ["serve health check 32000 shop/web 2"]);
    let log = harness.apply(local("web", &["10.244.1.8", "10.244.1.7"])).await;
    assert_eq!(health_checks(log), Vec::<String>::new());
    // Another port, then another policy, then the policy again, then no Service.
    let log = harness.apply(balanced("web", 32_001, 1)).await;
    assert_eq!(
        health_checks(log),
        ["close health check 32000", "serve health check 32001 shop/web 2"]
    );
    let log = harness.apply(service("web", Protocol::Tcp, "10.96.0.1", 1)).await;
    assert_eq!(health_checks(log), ["close health check 32001"]);
    let log = harness.apply(balanced("web", 32_000, 1)).await;
    assert_eq!(health_checks(log), ["serve health check 32000 shop/web 2"]);
    let log = harness.send([delete(Kind::Service, "shop/web")]).await;
    assert_eq!(health_checks(log), ["close health check 32000"]);
}

#[tokio::test(start_paused = true)]
async fn contract_6_4_port_in_use_is_reported_and_retried() {
    let mut harness = Harness::ready_with(vec![]).await;
    harness.kernel().fail("serve health check 32000", 3, libc::EADDRINUSE);
    harness.apply(balanced("web", 32_000, 1)).await;
    harness.apply(balanced("other", 32_001, 2)).await;
    let (status, message) = harness.status(Concern::HealthCheckPorts);
    assert_eq!(status, Status::Failed);
    assert!(message.contains("healthCheckNodePort 32000 of Service shop/web"), "{message}");
    let finding = harness.findings().remove(0);
    let expected = "shop/web FailedToStartServiceHealthcheck: node n1: healthCheckNodePort 32000";
    assert!(finding.starts_with(expected), "{finding}");
    assert_eq!(harness.kernel().health_checks.len(), 1, "the other Service is served");
    assert!(harness.state().ready());
    harness.run_for(Duration::from_secs(120)).await;
    assert_eq!(harness.condition(Concern::HealthCheckPorts), None);
    assert_eq!(harness.kernel().health_checks.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn servers_listen_where_node_ports_are_served_and_follow_the_addresses() {
    let flags = ["--nodeport-addresses=172.18.0.0/16,fc00::/64"];
    let mut harness = Harness::with(&flags, FakeKernel::new(host()));
    harness.send(lists(vec![])).await;
    let log = harness.apply(balanced("web", 32_000, 1)).await;
    assert_eq!(health_checks(log), ["serve health check 32000 shop/web 0 at {172.18.0.2}"]);
    // Of these, the range of IPv4 has none, and that of IPv6 one.
    for address in ["192.168.9.2", "fc00::2"] {
        let address = address.parse().unwrap();
        let address = LocalAddress { address, ifindex: 3, additional: false };
        harness.kernel().host.addresses.push(address);
    }
    let log = harness.send([Event::HostNetwork]).await;
    let both = ["serve health check 32000 shop/web 0 at {172.18.0.2, fc00::2}"];
    assert_eq!(health_checks(log), both);
    harness.kernel().host.addresses.remove(0);
    let log = harness.send([Event::HostNetwork]).await;
    assert_eq!(health_checks(log), ["serve health check 32000 shop/web 0 at {fc00::2}"]);
}

#[tokio::test(start_paused = true)]
async fn servers_listen_at_the_primary_address_of_the_node_object() {
    let mut harness = Harness::with(&["--nodeport-addresses=primary"], FakeKernel::new(host()));
    harness.send(lists(vec![balanced("web", 32_000, 1)])).await;
    let at = |harness: &mut Harness| format!("{:?}", harness.kernel().health_checks[&32_000].1);
    assert_eq!(at(&mut harness), "{172.18.0.2}");
    harness.apply(node("n1", "172.18.0.9", "10.244.1.0/24")).await;
    assert_eq!(at(&mut harness), "{}");
    harness.apply(node("n1", "172.18.0.2", "10.244.1.0/24")).await;
    assert_eq!(at(&mut harness), "{172.18.0.2}");
}

#[tokio::test(start_paused = true)]
async fn oldest_service_has_a_port_that_two_name() {
    let mut harness = Harness::ready_with(vec![]).await;
    harness.apply(balanced("new", 32_000, 2)).await;
    harness.apply(balanced("old", 32_000, 1)).await;
    let (_, message) = harness.status(Concern::HealthCheckPorts);
    assert_eq!(
        message,
        "healthCheckNodePort 32000 of Service shop/new is that of Service shop/old"
    );
    assert_eq!(harness.kernel().health_checks[&32_000].0.service.to_string(), "shop/old");
    let log = harness.send([delete(Kind::Service, "shop/old")]).await;
    assert_eq!(health_checks(log), ["serve health check 32000 shop/new 0"]);
    assert_eq!(harness.condition(Concern::HealthCheckPorts), None);
}
