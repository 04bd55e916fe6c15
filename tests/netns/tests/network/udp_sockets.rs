//! Connected UDP sockets that were translated: which ones the agent closes, and that it closes all of them.

use std::time::Duration;

use netns_tests::manifest::{namespace, service_with};
use netns_tests::peer::HoldReport;
use netns_tests::{Topology, dataplane, eventually};
use serde_json::json;
use sluice_abi::{BackendRow, UdpSocket, map};

use crate::{two_nodes, two_nodes_with_open_pods};

const VIP: &str = "10.96.9.7";
const OTHER: &str = "10.96.9.8";
const PORTS: [&str; 1] = ["udp:53->5353"];
const SERVED: [&str; 1] = ["udp:5353"];
/// A closed socket has the next server well within this time.
const LIMIT: Duration = Duration::from_secs(20);

fn dns(address: &str) -> String {
    format!("{address}:53")
}

/// The socket was closed: the client keeps one that has any other error than ECONNABORTED.
#[track_caller]
fn assert_moved(what: &str, report: &HoldReport, servers: [&str; 2]) {
    assert_eq!(report.servers, servers, "{what}: {report:?}");
}

/// Only the Service loses the endpoint: its clients leave it. Those of another Service with the endpoint, and
/// those that are connected to the endpoint itself, see nothing.
#[test]
fn only_sockets_that_the_service_translated_are_closed() {
    let t = two_nodes();
    let pods = [t.a.pod("default/dns-0"), t.b.pod("default/dns-1")];
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let _servers = [pods[0].serve("dns-0", &SERVED), pods[1].serve("dns-1", &SERVED)];
    t.topology.apply("dns", &service_with("dns", VIP, &PORTS, &[&pods[0]]));
    t.topology.apply("other", &service_with("other", OTHER, &PORTS, &[&pods[0]]));
    let clients = [("near", &*near), ("far", &*far), ("node 1", &*t.a)];
    let mut held = vec![];
    for (what, client) in clients {
        for address in [VIP, OTHER] {
            eventually(what, || client.connect("udp", &dns(address)));
        }
        let hold = |to: &str| client.hold_within("udp-connected", to, LIMIT);
        held.push((what, hold(&dns(VIP)), [hold(&dns(OTHER)), hold(&pods[0].at(5353))]));
    }
    t.topology.apply("dns", &service_with("dns", VIP, &PORTS, &[&pods[1]]));
    for (what, moved, kept) in held {
        assert_moved(what, &moved.finish_after("dns-1"), ["dns-0", "dns-1"]);
        for client in kept {
            let report: HoldReport = client.finish();
            assert_eq!(
                (&*report.servers, &*report.errors),
                (&["dns-0".to_owned()][..], &[][..]),
                "{what}"
            );
        }
    }
    let entries = dataplane::entries::<u64, UdpSocket>(&t.a, map::UDP_SOCKETS);
    assert_eq!(entries, [], "the sockets are closed");
}

/// Two Services exchange their addresses and keep their endpoints.
#[test]
fn udp_clients_follow_their_frontend_to_another_service() {
    let t = two_nodes();
    let pods = [t.a.pod("default/dns-0"), t.b.pod("default/dns-1")];
    let near = t.a.pod("default/near");
    let _servers = [pods[0].serve("dns-0", &SERVED), pods[1].serve("dns-1", &SERVED)];
    let services = |first: &str, second: &str| {
        [
            service_with("dns", first, &PORTS, &[&pods[0]]),
            service_with("other", second, &PORTS, &[&pods[1]]),
        ]
        .join("---")
    };
    t.topology.apply("both", &services(VIP, OTHER));
    let mut held = vec![];
    for (what, client) in [("near", &*near), ("node 1", &*t.a)] {
        eventually(what, || client.connect("udp", &dns(VIP)));
        held.push((what, client.hold_within("udp-connected", &dns(VIP), LIMIT)));
    }
    t.topology.apply("both", &services(OTHER, VIP));
    for (what, client) in held {
        assert_moved(what, &client.finish_after("dns-1"), ["dns-0", "dns-1"]);
    }
}

/// As if the agent had been killed after its last write, which removed the backend: the next one has nothing to
/// remove from the maps.
#[test]
fn next_agent_closes_sockets_that_the_last_one_left_open() {
    let topology = Topology::new();
    topology.apply("ns", &namespace("default", &[]));
    let node = topology.node(1);
    let agent = node.agent();
    let pods = [node.pod("default/dns-0"), node.pod("default/dns-1")];
    let client = node.pod("default/client");
    let _servers = [pods[0].serve("dns-0", &SERVED), pods[1].serve("dns-1", &SERVED)];
    topology.apply("dns", &service_with("dns", VIP, &PORTS, &[&pods[0]]));
    eventually("the Service", || client.connect("udp", &dns(VIP)));
    let held = client.hold_within("udp-connected", &dns(VIP), LIMIT);
    agent.kill();
    dataplane::delete_all::<u32, BackendRow>(&node, map::BACKENDS);
    topology.apply("dns", &service_with("dns", VIP, &PORTS, &[&pods[1]]));
    let _agent = node.agent();
    assert_moved("client", &held.finish_after("dns-1"), ["dns-0", "dns-1"]);
}

/// With an agent at once, and of a pod that ended while none ran when the next one starts.
#[test]
fn udp_clients_of_a_host_port_follow_it_to_the_next_pod() {
    let topology = Topology::new();
    topology.apply("ns", &namespace("default", &[]));
    let node = topology.node(1);
    let agent = node.agent();
    let mappings = json!([{"hostPort": 9053, "containerPort": 5353, "protocol": "udp"}]);
    let pod = |name: &str| {
        let pod = node.pod_with_host_ports(&format!("default/{name}"), mappings.clone());
        let server = pod.serve(name, &SERVED);
        (pod, server)
    };
    let near = node.pod("default/near");
    let to = format!("{}:9053", node.address);
    let hold = || {
        [("near", &*near), ("node", &*node)].map(|(what, client)| {
            eventually(what, || client.connect("udp", &to));
            (what, client.hold_within("udp-connected", &to, LIMIT))
        })
    };
    let (first, _first_server) = pod("first");
    let held = hold();
    // The newer of two pods has the port, also after DEL of the other.
    let (second, _second_server) = pod("second");
    node.cni("DEL", &first.sandbox).ok();
    for (what, client) in held {
        assert_moved(what, &client.finish_after("second"), ["first", "second"]);
    }
    let held = hold();
    agent.kill();
    let (_third, _third_server) = pod("third");
    node.cni("DEL", &second.sandbox).ok();
    let _agent = node.agent();
    for (what, client) in held {
        assert_moved(what, &client.finish_after("third"), ["second", "third"]);
    }
}

/// Also of a process that is killed. `close(2)` has a packet test: `connected_socket_has_an_entry_until_it_is_closed`.
#[test]
fn entries_of_sockets_end_with_their_process() {
    let t = two_nodes_with_open_pods();
    let (server, client) = (t.b.pod("default/dns"), t.a.pod("default/client"));
    let _server = server.serve("dns", &SERVED);
    t.topology.apply("dns", &service_with("dns", VIP, &PORTS, &[&server]));
    eventually("the Service", || client.connect("udp", &dns(VIP)));
    let entries = || dataplane::entries::<u64, UdpSocket>(&t.a, map::UDP_SOCKETS).len();
    let held = client.hold("udp-connected", &dns(VIP));
    assert_eq!(entries(), 1);
    drop(held);
    eventually("no entry", || if entries() == 0 { Ok(()) } else { Err("one".to_owned()) });
}
