//! Repair of `HOST_PORTS`.

use std::time::Duration;

use sluice_core::model::{self, Kind};
use sluice_core::table::HostPorts;
use sluice_pod::{HostPort, Protocol};

use super::{of_others, with_pods};
use crate::conditions::Concern;
use crate::event::Event;
use crate::harness::{delete, pod, slice, with_node_port};

/// Time until the next resync.
const RESYNC: Duration = Duration::from_secs(31);

fn port(host_port: u16) -> HostPort {
    HostPort { host_ip: [0; 4].into(), host_port, container_port: 80, protocol: Protocol::Tcp }
}

#[tokio::test(start_paused = true)]
async fn rows_of_host_ports_are_those_of_the_leases() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    harness.kernel().leases[0].host_ports = Some(vec![port(8080), port(8443)]);
    assert_eq!(harness.send([Event::Leases]).await, ["put HOST_PORTS 2"]);
    let rows = harness.kernel().rows::<HostPorts>();
    let expected = [port(8080), port(8443)].map(|p| (p.key(), p.backend([10, 244, 1, 7].into())));
    assert_eq!(rows, expected);
    assert_eq!(harness.send([Event::Leases]).await, Vec::<String>::new(), "nothing differs");

    // Another program.
    let (key, pod) = rows[0];
    harness.kernel().overwrite::<HostPorts>(key, port(8080).backend([10, 244, 1, 99].into()));
    assert_eq!(harness.run_for(RESYNC).await, ["put HOST_PORTS 1"]);
    assert_eq!(harness.kernel().rows::<HostPorts>()[0], (key, pod));

    harness.kernel().leases[0].host_ports = Some(vec![port(8443)]);
    assert_eq!(harness.send([Event::Leases]).await, ["delete HOST_PORTS 1"]);
}

#[tokio::test(start_paused = true)]
async fn newer_pod_has_a_port_of_two() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    for (lease, seconds) in harness.kernel().leases.iter_mut().zip([20, 10]) {
        lease.host_ports = Some(vec![port(8080)]);
        lease.since.seconds = seconds;
    }
    assert_eq!(harness.send([Event::Leases]).await, ["put HOST_PORTS 1"]);
    let newer = port(8080).backend([10, 244, 1, 7].into());
    assert_eq!(harness.kernel().rows::<HostPorts>(), [(port(8080).key(), newer)]);
}

#[tokio::test(start_paused = true)]
async fn rows_of_a_lease_without_a_record_are_kept_as_long_as_the_lease() {
    let (mut harness, _) = with_pods(&[7]).await;
    harness.kernel().leases[0].host_ports = None;
    for address in [[10, 244, 1, 7], [10, 244, 1, 8]] {
        let number = u16::from(address[3]);
        let pod = port(number).backend(address.into());
        harness.kernel().overwrite::<HostPorts>(port(number).key(), pod);
    }
    assert_eq!(harness.send([Event::Leases]).await, ["delete HOST_PORTS 1"]);
    let kept = (port(7).key(), port(7).backend([10, 244, 1, 7].into()));
    assert_eq!(harness.kernel().rows::<HostPorts>(), [kept]);
}

#[tokio::test(start_paused = true)]
async fn host_port_that_a_node_port_hides_is_found_on_its_pod() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    harness.kernel().leases[0].host_ports = Some(vec![port(30_080), port(30_081)]);
    harness.send([Event::Leases]).await;
    harness.apply(with_node_port("web", model::Protocol::Udp, 30_080)).await;
    harness.apply(with_node_port("web", model::Protocol::Tcp, 30_082)).await;
    assert_eq!(harness.findings(), Vec::<String>::new());
    let of = |n: u8| {
        let hidden =
            "hostPort 30080/TCP is not served: IPv4 NodePort 30080/TCP of Service shop/web";
        format!("shop/pod-{n} HostPortHidden: {hidden} precedes it")
    };
    harness.apply(with_node_port("web", model::Protocol::Tcp, 30_080)).await;
    assert_eq!(harness.findings(), [of(7)]);
    // Once, also if something else of the Service or the pod changes; then a pod that is new.
    harness.apply(slice("web", model::Protocol::Tcp, &["10.244.2.7"])).await;
    harness.kernel().leases[1].host_ports = Some(vec![port(30_080)]);
    harness.send([Event::Leases]).await;
    assert_eq!(harness.findings(), [of(8)]);
    // Another Service.
    harness.send([delete(Kind::Service, "shop/web")]).await;
    harness.apply(with_node_port("api", model::Protocol::Tcp, 30_081)).await;
    let findings = harness.findings();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].contains("hostPort 30081/TCP"), "{findings:?}");
}

/// DEL and ADD write the rows under the lock that the agent waits for.
#[tokio::test(start_paused = true)]
async fn rows_are_compared_again_under_the_lock_of_the_leases() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    let to = |n: u8| port(8080).backend([10, 244, 1, n].into());
    // The pod of a row that is missing ends.
    harness.kernel().leases[0].host_ports = Some(vec![port(8080)]);
    harness.kernel().after("lock leases", |kernel| {
        kernel.leases[0].host_ports = Some(Vec::new());
    });
    assert_eq!(harness.send([Event::Leases]).await, Vec::<String>::new());
    assert_eq!(harness.kernel().rows::<HostPorts>(), []);
    // The row of a pod that has ended becomes that of the next one with the port.
    harness.kernel().overwrite::<HostPorts>(port(8080).key(), to(9));
    harness.kernel().after("lock leases", move |kernel| {
        kernel.leases[1].host_ports = Some(vec![port(8080)]);
        kernel.overwrite::<HostPorts>(port(8080).key(), to(8));
    });
    assert_eq!(harness.send([Event::Leases]).await, Vec::<String>::new());
    assert_eq!(harness.kernel().rows::<HostPorts>(), [(port(8080).key(), to(8))]);
    // Another process holds the lock.
    harness.kernel().leases[1].host_ports = Some(Vec::new());
    harness.kernel().fail("lock leases", 1, libc::ETIMEDOUT);
    assert_eq!(harness.send([Event::Leases]).await, Vec::<String>::new());
    assert_eq!(harness.run_for(Duration::from_millis(250)).await, ["delete HOST_PORTS 1"]);
    // Equal rows need no lock.
    harness.kernel().fail("lock leases", usize::MAX, libc::ETIMEDOUT);
    assert_eq!(harness.run_for(RESYNC).await, Vec::<String>::new());
    assert!(harness.condition(Concern::HostPorts).is_none());
}

/// The agent would wait for the lock of every ADD of a burst.
#[tokio::test(start_paused = true)]
async fn rows_of_a_running_add_are_left_to_it_without_the_lock() {
    let (mut harness, _) = with_pods(&[]).await;
    let (mut lease, link) = pod(7);
    lease.since = harness.kernel().boot_instant.clone();
    lease.host_ports = Some(vec![port(8080)]);
    harness.kernel().leases.push(lease);
    harness.kernel().fail("lock leases", usize::MAX, libc::ETIMEDOUT);
    assert_eq!(of_others(harness.send([Event::Leases]).await), Vec::<String>::new());
    assert!(harness.condition(Concern::HostPorts).is_none());
    harness.kernel().heal();
    // With its row in LOCAL_PODS it has written all of them; this one was lost.
    harness.kernel().host.links.push(link);
    let log = harness.send([Event::Leases]).await;
    assert!(log.contains(&"put LOCAL_PODS 1".to_owned()), "{log:?}");
    assert_eq!(log.last().unwrap(), "put HOST_PORTS 1");
    // An ADD that was killed before its rows.
    let (mut killed, _) = pod(8);
    killed.since = harness.kernel().boot_instant.clone();
    killed.host_ports = Some(vec![port(8081)]);
    harness.kernel().leases.push(killed);
    assert_eq!(of_others(harness.send([Event::Leases]).await), Vec::<String>::new());
    harness.kernel().boot_instant.seconds += 10;
    assert_eq!(harness.run_for(RESYNC).await, ["put HOST_PORTS 1"]);
}

#[tokio::test(start_paused = true)]
async fn udp_sockets_of_a_host_port_are_closed_when_its_pod_ends() {
    let (mut harness, _) = with_pods(&[7, 8]).await;
    let udp = HostPort { protocol: Protocol::Udp, ..port(8125) };
    harness.kernel().leases[0].host_ports = Some(vec![udp.clone(), port(8080)]);
    assert_eq!(harness.send([Event::Leases]).await, ["put HOST_PORTS 2"]);
    // CNI DEL has removed rows and lease; ADD of the next pod has written its own.
    harness.kernel().leases[0].host_ports = Some(Vec::new());
    harness.kernel().leases[1].host_ports = Some(vec![udp.clone()]);
    harness.kernel().overwrite::<HostPorts>(udp.key(), udp.backend([10, 244, 1, 8].into()));
    let log = harness.send([Event::Leases]).await;
    assert_eq!(log, ["delete HOST_PORTS 1", "close UDP sockets 10.244.1.7:80 pods 2"]);
    assert_eq!(harness.send([Event::Leases]).await, Vec::<String>::new());
}
