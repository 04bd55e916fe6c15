//! Services that change under traffic, restarts that clients with affinity do not notice, and
//! Services with thousands of endpoints.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use netns_tests::manifest::{service, service_with, slice, slice_of};
use netns_tests::peer::HoldReport;
use netns_tests::{Agent, Host, Node, Pod, Topology, agents, dataplane, eventually, ip};
use sluice_abi::{ServicePort, map};

use crate::traffic::{self, Traffic, drops};
use crate::two_nodes;

const VIP: &str = "10.96.7.7";
/// Load balancer address, which no host has.
const LB: &str = "172.30.0.200";
const NODE_PORT: u16 = 30_080;

/// Ports of the Service with affinity: each has clients of its own.
const AFFINITY_PORTS: std::ops::Range<u16> = 80..92;

/// Clients whose backends are recorded under another address each, or by another program.
fn servers_of_clients(clients: &[(&str, &Host)]) -> Vec<String> {
    let mut servers = Vec::new();
    for (what, client) in clients {
        for port in AFFINITY_PORTS {
            let to = format!("{VIP}:{port}");
            let exchange = client.connect("tcp", &to);
            let (response, _) = exchange.unwrap_or_else(|e| panic!("{what}, {to}: {e}"));
            servers.push(format!("{what}, {port}: {}", response.server));
        }
    }
    servers
}

/// Every client of every port keeps its endpoint while no agent runs, and with an agent that starts
/// with more endpoints. A client without affinity keeps it by chance: with two endpoints, and 36
/// clients, once in 2^36 cases.
#[test]
fn contract_4_5_affinity_is_kept_over_a_restart_of_the_agent() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [agent, _other] = agents([(&a, &[]), (&b, &[])]);
    let pods: Vec<Pod> = (0..3).map(|n| b.pod(&format!("default/web-{n}"))).collect();
    let _servers: Vec<_> = pods
        .iter()
        .enumerate()
        .map(|(n, pod)| pod.serve(&format!("web-{n}"), &["tcp:8080"]))
        .collect();
    let (sockets, packets) = (a.pod("default/sockets"), a.pod("default/packets"));
    let packets = packets.without_socket_programs();
    let clients = [("pod, socket", &*sockets), ("pod, packet", &packets), ("node", &*a)];

    let ports: Vec<String> = AFFINITY_PORTS.map(|port| format!("tcp:{port}->8080")).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let with_endpoints = |backends: &[&Pod]| {
        let yaml = service_with("web", VIP, &ports, backends);
        let yaml =
            yaml.replace("  type: ClusterIP", "  type: ClusterIP\n  sessionAffinity: ClientIP");
        topology.apply("web", &yaml);
    };
    with_endpoints(&[&pods[0], &pods[1]]);
    for (what, client) in clients {
        let last = format!("{VIP}:{}", AFFINITY_PORTS.end - 1);
        eventually(what, || client.connect("tcp", &last));
    }
    let before = servers_of_clients(&clients);
    let distinct: BTreeSet<&str> = before.iter().filter_map(|s| s.rsplit(' ').next()).collect();
    assert_eq!(distinct.len(), 2, "{before:?}");

    agent.kill();
    assert_eq!(servers_of_clients(&clients), before, "no agent runs");
    let agent = a.agent();
    assert_eq!(servers_of_clients(&clients), before, "after a restart");
    agent.kill();
    let all: Vec<&Pod> = pods.iter().collect();
    with_endpoints(&all);
    let _agent = a.agent();
    wait_for_length(&a, 3);
    assert_eq!(servers_of_clients(&clients), before, "after a restart with another endpoint");
}

/// Waits until a Service port has so many endpoints.
fn wait_for_length(node: &Node, length: u32) {
    eventually(&format!("{length} endpoints"), || {
        let ports = dataplane::entries::<u32, ServicePort>(node, map::SERVICES);
        let lengths: Vec<u32> = ports.iter().map(|(_, port)| port.cluster.len).collect();
        if lengths.contains(&length) { Ok(()) } else { Err(format!("{lengths:?}")) }
    });
}

/// The Service of [`Traffic`] with a type.
fn typed(traffic: &Traffic, service_type: &str) -> String {
    let yaml = service_with("web", traffic::VIP, &traffic::PORTS, &[&traffic.near, &traffic.far]);
    let mut yaml = yaml.replace("type: ClusterIP", &format!("type: {service_type}"));
    if service_type != "ClusterIP" {
        let port = "port: 80, targetPort: 8080";
        assert!(yaml.contains(port), "{yaml}");
        yaml = yaml.replace(port, &format!("{port}, nodePort: {NODE_PORT}"));
    }
    if service_type == "LoadBalancer" {
        let status = format!("\nstatus: {{loadBalancer: {{ingress: [{{ip: {LB}}}]}}}}\n---");
        yaml = yaml.replacen("\n---", &status, 1);
    }
    yaml
}

/// Waits until both frontends of the host outside exist or not.
fn outside_reaches(outside: &Host, node_port: &str, load_balancer: &str, expected: [bool; 2]) {
    eventually(&format!("NodePort and load balancer: {expected:?}"), || {
        let reached = [node_port, load_balancer].map(|to| {
            let result = outside.connect_with("tcp", to, &["--deadline-ms", "700"]).remove(0);
            result.map(|(_, peer)| assert_eq!(peer.to_string(), to)).is_ok()
        });
        if reached == expected { Ok(()) } else { Err(format!("{reached:?}")) }
    });
}

#[test]
fn service_that_changes_its_type_loses_no_connection() {
    let t = two_nodes();
    ip(t.topology.router(), &format!("route add {LB} via {}", t.a.address));
    let traffic = Traffic::start(&t.topology, &t.a, &t.b);
    let (node_port, load_balancer) = (format!("{}:{NODE_PORT}", t.a.address), format!("{LB}:80"));
    let outside = &t.topology.outside;
    outside_reaches(outside, &node_port, &load_balancer, [false, false]);
    let mut held = None;
    for (service_type, expected) in [
        ("NodePort", [true, false]),
        ("LoadBalancer", [true, true]),
        ("NodePort", [true, false]),
        ("LoadBalancer", [true, true]),
        ("ClusterIP", [false, false]),
    ] {
        t.topology.apply("web", &typed(&traffic, service_type));
        outside_reaches(outside, &node_port, &load_balancer, expected);
        // Opened by the first NodePort, and kept when it is removed.
        held.get_or_insert_with(|| outside.hold("tcp", &node_port));
    }
    let held: HoldReport = held.unwrap().finish();
    assert_eq!(held.errors, [] as [String; 0], "connection through the NodePort: {held:?}");
    traffic.finish();
}

/// Endpoints of the large Service: addresses of one host, whose server names the one that it was
/// reached by.
const ENDPOINTS: usize = 5_000;

fn endpoint_addresses() -> Vec<String> {
    (0..ENDPOINTS).map(|n| format!("10.50.{}.{}", n / 250, 1 + n % 250)).collect()
}

/// As the API server splits them.
fn large_service(addresses: &[String]) -> String {
    let ports = ["tcp:80->8080"];
    let slices = addresses.chunks(1_000).enumerate();
    let slices = slices.map(|(n, chunk)| slice_of(&format!("large-{n}"), "large", &ports, chunk));
    let documents: Vec<String> =
        std::iter::once(service("large", VIP, &ports)).chain(slices).collect();
    documents.join("---")
}

#[test]
fn service_with_five_thousand_endpoints_is_programmed_and_another_is_not_affected() {
    const OTHER: &str = "10.96.8.8:80";
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let _agent: Agent = a.agent();
    // Node 2 has the addresses of all endpoints, and no agent.
    ip(&b.namespaces, "route add local 10.50.0.0/16 dev lo");
    ip(&a.namespaces, &format!("route add 10.50.0.0/16 via {}", b.address));
    let _server = b.serve("large", &["tcp:8080"]);
    let (web, client) = (a.pod("default/web"), a.pod("default/client"));
    let packets = a.pod("default/packets").without_socket_programs();
    let _web = web.serve("web", &["tcp:8080"]);
    let other = ["tcp:80->8080"];
    let documents = [service("other", "10.96.8.8", &other), slice("other", &other, &[&web])];
    topology.apply("other", &documents.join("---"));
    eventually("the other Service", || client.connect("tcp", OTHER));
    let held = [
        client.hold("tcp", OTHER),
        client.hold("connect", OTHER),
        packets.hold("tcp", OTHER),
        packets.hold("connect", OTHER),
    ];

    let addresses = endpoint_addresses();
    topology.apply("large", &large_service(&addresses));
    wait_for_length(&a, ENDPOINTS as u32);
    for (what, host) in [("sockets", &*client), ("packets", &packets)] {
        let exchanges = host.connect_times("tcp", &format!("{VIP}:80"), 1_000);
        let reached: BTreeSet<SocketAddr> = exchanges
            .into_iter()
            .map(|exchange| exchange.unwrap_or_else(|e| panic!("{what}: {e}")).0.local)
            .collect();
        // 906 on average, with a deviation of 9.
        println!("    {what}: {} of {ENDPOINTS} endpoints by 1,000 connections", reached.len());
        assert!(reached.len() > 850, "{what}: {}", reached.len());
    }
    // The last slice is left.
    topology.apply("large", &large_service(&addresses[4_000..]));
    wait_for_length(&a, 1_000);
    topology.delete("large");
    eventually("the Service is removed", || match client.connect("tcp", &format!("{VIP}:80")) {
        Err(_) => Ok(()),
        Ok(exchange) => Err(format!("{exchange:?}")),
    });
    for client in held {
        let held: HoldReport = client.finish();
        assert_eq!((held.errors.len(), held.servers.len()), (0, 1), "{held:?}");
        assert!(held.longest_ms < 900, "{held:?}");
    }
    assert_eq!(drops(&a), []);
}
