//! ClusterIP Services, by the socket programs and by the tc programs.

use std::collections::BTreeSet;

use netns_tests::manifest::{service, service_with, slice_of};
use netns_tests::peer::{Exchange, HoldReport};
use netns_tests::{Host, OUTSIDE, Pod, command, eventually};

use crate::{TwoNodes, two_nodes};

/// ClusterIP of the Service.
const VIP: &str = "10.96.7.7";
/// Ports of the Service, and those of its pods.
const PORTS: [&str; 3] = ["tcp:80->8080", "tcp:81->8081", "udp:53->5353"];
/// Ports that its pods serve.
const SERVED: [&str; 3] = ["tcp:8080", "tcp:8081", "udp:5353"];

/// Every kind of client socket, with its Service port.
const SOCKETS: [(&str, u16); 3] = [("tcp", 80), ("udp", 53), ("udp-connected", 53)];

fn vip(port: u16) -> String {
    format!("{VIP}:{port}")
}

/// Repeats a request until its outcome is the expected one.
fn connect_until(client: &Host, protocol: &str, port: u16, expected: impl Fn(&Exchange) -> bool) {
    eventually(&format!("{protocol} {}", vip(port)), || {
        let exchange = client.connect(protocol, &vip(port));
        if expected(&exchange) { Ok(()) } else { Err(format!("{exchange:?}")) }
    });
}

/// Waits until the Service responds to this client.
fn wait_for_service(client: &Host, protocol: &str, port: u16) {
    connect_until(client, protocol, port, Result::is_ok);
}

/// Pods on both nodes and a node, with and without socket programs.
fn clients(t: &TwoNodes, near: &Pod, far: &Pod) -> Vec<(String, Host)> {
    [("pod of node 1", &**near), ("pod of node 2", &**far), ("node 1", &*t.a)]
        .into_iter()
        .flat_map(|(name, host)| {
            host.both_paths().map(|(path, host)| (format!("{name}, {path}"), host))
        })
        .collect()
}

/// Single clients and sources are in the case tables; this is the choice among endpoints.
#[test]
fn every_kind_of_client_reaches_all_endpoints() {
    let t = two_nodes();
    let backends = [t.a.pod("default/web-0"), t.b.pod("default/web-1")];
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let _servers = [backends[0].serve("web-0", &SERVED), backends[1].serve("web-1", &SERVED)];
    t.topology.apply("web", &service_with("web", VIP, &PORTS, &[&backends[0], &backends[1]]));
    for (what, client) in clients(&t, &near, &far) {
        for (protocol, port) in SOCKETS {
            wait_for_service(&client, protocol, port);
            let mut servers = BTreeSet::new();
            for exchange in client.connect_times(protocol, &vip(port), 40) {
                let (response, from) =
                    exchange.unwrap_or_else(|e| panic!("{what}, {protocol}: {e}"));
                assert_eq!(from.to_string(), vip(port), "{what}, {protocol}: peer address");
                servers.insert(response.server);
            }
            assert_eq!(servers.len(), 2, "{what}, {protocol}: {servers:?}");
        }
        // Ports of one Service lead to their own target ports.
        let (response, _) = client.connect("tcp", &vip(81)).unwrap();
        assert_eq!(response.local.port(), 8081, "{what}");
    }
}

/// Segmentation and checksums are left to the devices: the socket programs and, without them, the tc
/// programs at the node's own device translate packets of 64 KiB with partial checksums.
#[test]
fn offloaded_packets_of_nodes_and_pods_reach_endpoints_through_a_service() {
    const BULK: usize = 4 << 20;
    let t = two_nodes();
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let endpoints = [
        ("near", "10.96.7.1", t.a.pod("default/web-0")),
        ("far", "10.96.7.2", t.b.pod("default/web-1")),
    ];
    let _servers: Vec<_> =
        endpoints.iter().map(|(name, _, pod)| pod.serve(name, &["tcp:8080"])).collect();
    for (name, address, pod) in &endpoints {
        t.topology.apply(name, &service_with(name, address, &["tcp:80->8080"], &[pod]));
    }
    let features = command(&t.a.namespaces, "ethtool", &["-k", "eth0"]);
    for feature in ["tcp-segmentation-offload: on", "tx-checksumming: on"] {
        assert!(features.contains(feature), "{feature} is missing in {features}");
    }
    for (what, client) in clients(&t, &near, &far) {
        for (name, address, _) in &endpoints {
            let target = format!("{address}:80");
            eventually(&format!("{what} to {name}"), || client.connect("tcp", &target));
            assert_eq!(client.upload(&target, BULK), Ok(BULK), "{what}, upload to {name}");
            assert_eq!(client.download(&target, BULK), Ok(BULK), "{what}, download from {name}");
        }
    }
}

#[test]
fn new_connections_follow_changes_and_open_connections_keep_their_endpoint() {
    let t = two_nodes();
    let pods: Vec<_> = (0..3).map(|n| t.b.pod(&format!("default/web-{n}"))).collect();
    let _servers: Vec<_> =
        pods.iter().enumerate().map(|(n, p)| p.serve(&format!("web-{n}"), &SERVED)).collect();
    // Another pod for the tc programs, which may give a connection the tuple of one that they do
    // not track.
    let client = t.a.pod("default/client");
    let packets = t.a.pod("default/packets").without_socket_programs();
    let servers = |host: &Host| -> Result<BTreeSet<String>, String> {
        let exchanges = host.connect_times("tcp", &vip(80), 30).into_iter();
        exchanges.map(|exchange| Ok(exchange?.0.server)).collect()
    };
    let set_endpoints = |numbers: &[usize]| {
        let backends: Vec<&Pod> = numbers.iter().map(|n| &pods[*n]).collect();
        t.topology.apply("web", &service_with("web", VIP, &PORTS, &backends));
        let want: BTreeSet<String> = numbers.iter().map(|n| format!("web-{n}")).collect();
        for host in [&*client, &packets] {
            eventually(&format!("{want:?}"), || match servers(host) {
                Ok(seen) if seen == want => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    };
    set_endpoints(&[0]);
    let held = client.hold("tcp", &vip(80));
    let held_packets = packets.hold("tcp", &vip(80));
    for backends in [&[0, 1, 2][..], &[1, 2], &[2]] {
        set_endpoints(backends);
    }
    t.topology.delete("web");
    connect_until(&client, "tcp", 80, Result::is_err);
    for held in [held, held_packets] {
        let held: HoldReport = held.finish();
        assert_eq!((held.errors, held.servers), (vec![], vec!["web-0".to_owned()]));
    }
}

/// The endpoint that leaves the Service keeps serving: a socket that still sent to it would have
/// responses. The socket programs translate an unconnected socket at each send, and the tc
/// programs each datagram; a connected socket changes its endpoint only because the agent
/// destroys it, which its program sees as ECONNABORTED.
#[test]
fn udp_clients_leave_an_endpoint_that_left_the_service() {
    let t = two_nodes();
    let pods = [t.a.pod("default/dns-0"), t.b.pod("default/dns-1")];
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let served = [&SERVED[..], &["udp:5354"]].concat();
    let _servers = [pods[0].serve("dns-0", &served), pods[1].serve("dns-1", &SERVED)];
    t.topology.apply("dns", &service_with("dns", VIP, &PORTS, &[&pods[0]]));
    let mut held = vec![];
    for (what, host) in clients(&t, &near, &far) {
        wait_for_service(&host, "udp", 53);
        for protocol in ["udp", "udp-connected"] {
            let aborted = protocol == "udp-connected" && what.ends_with("socket programs");
            let what = format!("{what}, {protocol}");
            held.push((what, aborted, host.hold(protocol, &vip(53))));
        }
    }
    // A socket to another port of the endpoint is not affected.
    let other = near.hold("udp-connected", &pods[0].at(5354));
    t.topology.apply("dns", &service_with("dns", VIP, &PORTS, &[&pods[1]]));
    for (what, aborted, client) in held {
        let report: HoldReport = client.finish_after("dns-1");
        assert_eq!(report.servers, ["dns-0", "dns-1"], "{what}: {report:?}");
        let errors = if aborted { vec!["ConnectionAborted"] } else { vec![] };
        assert_eq!(report.errors, errors, "{what}: {report:?}");
    }
    let other: HoldReport = other.finish();
    assert_eq!((other.servers, other.errors), (vec!["dns-0".to_owned()], vec![]));
}

/// Another Service keeps the endpoint, and so do its clients, without an error.
#[test]
fn udp_clients_leave_an_endpoint_that_another_service_keeps() {
    const OTHER: &str = "10.96.8.8";
    let t = two_nodes();
    let pods = [t.a.pod("default/dns-0"), t.b.pod("default/dns-1")];
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let _servers = [pods[0].serve("dns-0", &SERVED), pods[1].serve("dns-1", &SERVED)];
    t.topology.apply("dns", &service_with("dns", VIP, &PORTS, &[&pods[0]]));
    t.topology.apply("other", &service_with("other", OTHER, &PORTS, &[&pods[0]]));
    let (mut moved, mut kept) = (vec![], vec![]);
    for (what, host) in clients(&t, &near, &far) {
        wait_for_service(&host, "udp", 53);
        for protocol in ["udp", "udp-connected"] {
            let what = format!("{what}, {protocol}");
            moved.push((what.clone(), host.hold(protocol, &vip(53))));
            kept.push((what, host.hold(protocol, &format!("{OTHER}:53"))));
        }
    }
    for (what, pod) in [("near", &near), ("far", &far)] {
        let direct = pod.hold("udp-connected", &pods[0].at(5353));
        kept.push((format!("{what}, directly"), direct));
    }
    t.topology.apply("dns", &service_with("dns", VIP, &PORTS, &[&pods[1]]));
    for (what, client) in moved {
        let report: HoldReport = client.finish_after("dns-1");
        assert_eq!(report.servers, ["dns-0", "dns-1"], "{what}: {report:?}");
    }
    for (what, client) in kept {
        let report: HoldReport = client.finish();
        assert_eq!(report.servers, ["dns-0"], "{what}: {report:?}");
        assert_eq!(report.errors, Vec::<String>::new(), "{what}: {report:?}");
    }
}

/// As above, with the pod deleted: its address responds with errors, if at all.
#[test]
fn contract_5_8_udp_clients_leave_a_deleted_endpoint() {
    let t = two_nodes();
    let pods = [t.a.pod("default/dns-0"), t.b.pod("default/dns-1")];
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let _server = pods[1].serve("dns-1", &SERVED);
    let deleted = pods[0].serve("dns-0", &SERVED);
    t.topology.apply("dns", &service_with("dns", VIP, &PORTS, &[&pods[0]]));
    let mut held = vec![];
    for (what, host) in clients(&t, &near, &far) {
        wait_for_service(&host, "udp", 53);
        for protocol in ["udp", "udp-connected"] {
            held.push((format!("{what}, {protocol}"), host.hold(protocol, &vip(53))));
        }
    }
    drop(deleted);
    t.a.cni("DEL", &pods[0].sandbox).ok();
    t.topology.apply("dns", &service_with("dns", VIP, &PORTS, &[&pods[1]]));
    for (what, client) in held {
        let report: HoldReport = client.finish_after("dns-1");
        assert_eq!(report.servers, ["dns-0", "dns-1"], "{what}: {report:?}");
    }
}

#[test]
fn one_source_port_reaches_two_services_of_one_endpoint() {
    let t = two_nodes();
    let web = t.b.pod("default/web");
    let client = t.a.pod("default/client");
    let _server = web.serve("web", &SERVED);
    let other = "10.96.8.8";
    t.topology.apply("web", &service_with("web", VIP, &["udp:53->5353"], &[&web]));
    t.topology.apply("other", &service_with("other", other, &["udp:53->5353"], &[&web]));
    let services = [vip(53), format!("{other}:53")];
    let all = [&services[..], &[web.at(5353)]].concat();
    // With the tc programs the endpoint's own address cannot be used from the same port too: a
    // limit that the specification names.
    let [(_, sockets), (_, packets)] = client.both_paths();
    for (host, targets) in [(sockets, &all[..]), (packets, &services)] {
        wait_for_service(&host, "udp", 53);
        for target in targets.iter().chain(targets) {
            let (_, from) = eventually("a response", || {
                host.connect_with("udp", target, &["--from", "4444"]).remove(0)
            });
            assert_eq!(from.to_string(), *target);
        }
    }
}

#[test]
fn one_source_port_connects_repeatedly() {
    let t = two_nodes();
    let web = t.b.pod("default/web");
    let client = t.a.pod("default/client");
    let _servers = [web.serve("web", &SERVED), t.topology.outside.serve("outside", &["tcp:80"])];
    t.topology.apply("web", &service_with("web", VIP, &PORTS, &[&web]));
    for (what, host) in client.both_paths() {
        wait_for_service(&host, "tcp", 80);
        for target in [vip(80), web.at(8080), format!("{OUTSIDE}:80")] {
            let options = ["--from", "5555", "--times", "30"];
            for exchange in host.connect_with("tcp", &target, &options) {
                assert!(exchange.is_ok(), "{what}, {target}: {exchange:?}");
            }
        }
    }
}

#[test]
fn endpoint_slices_without_pods_add_up() {
    let t = two_nodes();
    let pod = t.a.pod("default/client");
    let _servers =
        [t.topology.outside.serve("outside", &["tcp:8080"]), t.b.serve("node2", &["tcp:9090"])];
    // Each slice has its own port number, as with named target ports.
    let yaml = [
        service("web", VIP, &["tcp:80->8080"]),
        slice_of("web-a", "web", &["tcp:80->8080"], &[OUTSIDE.to_string()]),
        slice_of("web-b", "web", &["tcp:80->9090"], &[t.b.address.to_string()]),
    ];
    t.topology.apply("web", &yaml.join("---"));
    for (what, host) in pod.both_paths() {
        wait_for_service(&host, "tcp", 80);
        let mut servers = BTreeSet::new();
        for exchange in host.connect_times("tcp", &vip(80), 30) {
            let (response, _) = exchange.unwrap_or_else(|e| panic!("{what}: {e}"));
            let client = if response.server == "outside" { t.a.address } else { pod.address };
            assert_eq!(response.client.ip(), client, "{what}, {}", response.server);
            servers.insert(response.server);
        }
        assert_eq!(servers.len(), 2, "{what}: {servers:?}");
    }
}
