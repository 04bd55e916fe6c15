//! healthCheckNodePorts, as load balancers read them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use netns_tests::manifest::{service, slice_of};
use netns_tests::{Host, Node, eventually};

use crate::two_nodes;

const PORTS: [&str; 1] = ["tcp:80->8080"];
const PORT: u16 = 32_100;

/// Status code of the port of `node`, as `host` reads it; `None` if it is closed.
fn status(host: &Host, node: &Node) -> Option<u16> {
    let get = || -> std::io::Result<String> {
        let address = (node.address, PORT).into();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        write!(stream, "GET / HTTP/1.0\r\n\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        Ok(response)
    };
    let response = host.namespaces().run(get).ok()?;
    response.split(' ').nth(1)?.parse().ok()
}

#[test]
fn contract_6_1_health_check_node_port_follows_the_local_endpoints() {
    let t = two_nodes();
    let pods = [t.a.pod("default/web-0"), t.b.pod("default/web-1")];
    let balanced = |policy: &str| {
        let service = service("web", "10.96.7.7", &PORTS);
        let spec = format!(
            "type: LoadBalancer\n  externalTrafficPolicy: {policy}\n  healthCheckNodePort: {PORT}"
        );
        service.replace("type: ClusterIP", &spec)
    };
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
            let found = [&t.a, &t.b].map(|node| status(&t.topology.outside, node));
            if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };
    expect("Local", &[0], [Some(200), Some(503)]);
    expect("Local", &[1], [Some(503), Some(200)]);
    expect("Cluster", &[0, 1], [None, None]);
    expect("Local", &[0, 1], [Some(200), Some(200)]);
}
