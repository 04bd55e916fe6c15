//! hostPorts: which addresses of the node have them, and that they begin and end with their pods, also
//! without an agent.

use netns_tests::manifest::namespace;
use netns_tests::{dataplane, eventually};
use serde_json::json;
use sluice_abi::{Backend, HostPortKey, map};

use crate::two_nodes;

const LOOPBACK: &str = "127.0.0.1";

fn rows(node: &netns_tests::Node) -> usize {
    dataplane::entries::<HostPortKey, Backend>(node, map::HOST_PORTS).len()
}

#[test]
fn contract_10_7_host_port_has_the_addresses_of_its_host_ip() {
    let t = two_nodes();
    let on_loopback = json!({"hostPort": 9081, "containerPort": 8080, "hostIP": LOOPBACK});
    let on_node = json!({
        "hostPort": 9082, "containerPort": 8080, "hostIP": t.a.address.to_string(),
    });
    let pod = t.a.pod_with_host_ports("default/web", json!([on_loopback, on_node]));
    let _server = pod.serve("web", &["tcp:8080"]);
    let near = t.a.pod("default/near");
    let node = t.a.address.to_string();
    for (what, client, address, port, reached) in [
        ("node", &*t.a, LOOPBACK, 9081, true),
        ("node", &*t.a, &*node, 9081, false),
        ("node", &*t.a, &*node, 9082, true),
        ("node", &*t.a, LOOPBACK, 9082, false),
        ("pod", &*near, LOOPBACK, 9081, false),
        ("pod", &*near, &*node, 9082, true),
        ("outside", &t.topology.outside, &*node, 9081, false),
        ("outside", &t.topology.outside, &*node, 9082, true),
    ] {
        let result = client.connect("tcp", &format!("{address}:{port}"));
        let server = result.map(|(response, _)| response.server);
        if reached {
            assert_eq!(server.as_deref(), Ok("web"), "{what} {address}:{port}");
        } else {
            let refused = Err("ConnectionRefused".to_owned());
            assert_eq!(server, refused, "{what} {address}:{port}");
        }
    }
}

#[test]
fn host_port_begins_and_ends_with_its_pod_also_without_an_agent() {
    let topology = netns_tests::Topology::new();
    // Without policies: its pods are open without an agent.
    topology.apply("ns", &namespace("default", &[]));
    let node = topology.node(1);
    let agent = node.agent();
    agent.kill();
    let mappings = json!([{"hostPort": 9080, "containerPort": 8080}]);
    let pod = node.pod_with_host_ports("default/web", mappings.clone());
    let server = pod.serve("web", &["tcp:8080"]);
    let to = format!("{}:9080", node.address);
    let reached = || topology.outside.connect("tcp", &to).map(|(response, _)| response.server);
    assert_eq!(reached().as_deref(), Ok("web"));

    // A row that is removed while no agent runs is restored by the next.
    dataplane::delete_all::<HostPortKey, Backend>(&node, map::HOST_PORTS);
    assert_eq!(reached(), Err("ConnectionRefused".to_owned()));
    let agent = node.agent();
    eventually(
        "the row is restored",
        || if rows(&node) == 1 { Ok(()) } else { Err("no row".into()) },
    );
    assert_eq!(reached().as_deref(), Ok("web"));
    agent.kill();

    // CHECK compares it.
    let mut config = node.config();
    config["prevResult"] = pod.result.clone();
    node.cni_with("CHECK", &config, &pod.sandbox).ok();
    dataplane::delete_all::<HostPortKey, Backend>(&node, map::HOST_PORTS);
    node.cni_with("CHECK", &config, &pod.sandbox).error(102, &["HOST_PORTS", "0.0.0.0:9080"]);

    // The next pod with the port has it; DEL of the former one leaves the row.
    let next = node.pod_with_host_ports("default/next", mappings);
    let _next_server = next.serve("next", &["tcp:8080"]);
    drop(server);
    node.cni("DEL", &pod.sandbox).ok();
    assert_eq!(reached().as_deref(), Ok("next"));
    node.cni("DEL", &next.sandbox).ok();
    assert_eq!(rows(&node), 0);
    assert_eq!(reached(), Err("ConnectionRefused".to_owned()));
}
