//! healthCheckNodePorts, as load balancers read them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use netns_tests::manifest::{service, slice_of};
use netns_tests::{Host, Topology, eventually, ip};

use crate::two_nodes;

const PORTS: [&str; 1] = ["tcp:80->8080"];
const PORT: u16 = 32_100;

/// Status code of the port at an address, as `host` reads it; `None` if it is closed.
fn status(host: &Host, address: Ipv4Addr) -> Option<u16> {
    let get = || -> std::io::Result<String> {
        let address = (address, PORT).into();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        write!(stream, "GET / HTTP/1.0\r\n\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        Ok(response)
    };
    let response = host.namespaces().run(get).ok()?;
    response.split(' ').nth(1)?.parse().ok()
}

/// A Service with a load balancer and this external traffic policy.
fn balanced(policy: &str) -> String {
    let spec = format!(
        "type: LoadBalancer\n  externalTrafficPolicy: {policy}\n  healthCheckNodePort: {PORT}"
    );
    service("web", "10.96.7.7", &PORTS).replace("type: ClusterIP", &spec)
}

#[test]
fn contract_6_1_health_check_node_port_follows_the_local_endpoints() {
    let t = two_nodes();
    let pods = [t.a.pod("default/web-0"), t.b.pod("default/web-1")];
    let endpoints = |on: &[usize]| {
        let addresses: Vec<String> = on.iter().map(|n| pods[*n].address.to_string()).collect();
        let mut yaml = slice_of("web-a", "web", &PORTS, &addresses);
        for (pod, node) in pods.iter().zip([&t.a, &t.b]) {
            let address = format!("addresses: [{}]", pod.address);
            yaml = yaml.replace(&address, &format!("{address}, nodeName: {}", node.name));
        }
        yaml
    };
    let expect = |policy: &str, on: &[usize], expected: [Option<u16>; 2]| {
        t.topology.apply("web", &format!("{}---{}", balanced(policy), endpoints(on)));
        eventually(&format!("policy {policy}, endpoints on {on:?}"), || {
            let found = [&t.a, &t.b].map(|node| status(&t.topology.outside, node.address));
            if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };
    expect("Local", &[0], [Some(200), Some(503)]);
    expect("Local", &[1], [Some(503), Some(200)]);
    expect("Cluster", &[0, 1], [None, None]);
    expect("Local", &[0, 1], [Some(200), Some(200)]);
}

#[test]
fn health_check_node_port_is_open_at_the_addresses_that_the_flag_selects() {
    let topology = Topology::new();
    let node = topology.node(1);
    let [selected, other, later] =
        [node.address, [172, 30, 0, 111].into(), [172, 30, 0, 112].into()];
    ip(&node.namespaces, &format!("addr add {other}/24 dev eth0"));
    let flag = format!("--nodeport-addresses={selected}/32,{later}/32");
    let _agent = node.agent_with(&[&flag]);
    topology.apply("web", &balanced("Local"));
    let expect = |expected: [Option<u16>; 3]| {
        eventually(&format!("{expected:?}"), || {
            // From the node: a packet to an address that it does not have would get no answer.
            let found = [selected, other, later].map(|address| status(&node, address));
            if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };
    expect([Some(503), None, None]);
    assert_eq!(status(&topology.outside, selected), Some(503));
    assert_eq!(status(&topology.outside, other), None, "no server listens");
    ip(&node.namespaces, &format!("addr add {later}/24 dev eth0"));
    expect([Some(503), None, Some(503)]);
    // The listener of an address that goes is closed: it comes back without an error.
    for change in ["del", "add"] {
        ip(&node.namespaces, &format!("addr {change} {later}/24 dev eth0"));
        expect([Some(503), None, (change == "add").then_some(503)]);
    }
}
