//! Several devices: the default route and the InternalIP on different ones, static routes, a VPN,
//! a bridge of other containers, and the MTU of each route.

use std::net::{IpAddr, Ipv4Addr};

use netns_tests::manifest::{service, slice_of};
use netns_tests::peer::Echo;
use netns_tests::{Host, Node, OUTSIDE, SECOND_OUTSIDE, Topology, agents, eventually, ip, sysctl};

const ETH1: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 11);
const VIP: &str = "10.96.9.9";

/// A node whose default route is by `eth1`, and whose InternalIP and a static route are by `eth0`.
fn default_route_by_eth1(topology: &Topology) -> (Node, Host) {
    let node = topology.node(1);
    let (_, second) = topology.second_uplink(&node);
    ip(&node.namespaces, "route replace default via 198.51.100.1");
    ip(&node.namespaces, "route add 203.0.113.0/24 via 172.30.0.1");
    (node, second)
}

/// Waits until a client reaches a server with this address.
#[track_caller]
fn reaches_as(client: &Host, protocol: &str, server: &str, address: impl Into<IpAddr>) {
    let address = address.into();
    eventually(&format!("{server} by {protocol} as {address}"), || {
        match client.connect(protocol, server) {
            Ok((response, _)) if response.client.ip() == address => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn flows_have_the_address_of_the_device_that_they_leave_by() {
    let topology = Topology::new();
    let (a, second) = default_route_by_eth1(&topology);
    let b = topology.node(2);
    let _agents = agents([(&a, &[]), (&b, &[])]);
    let (pod, far) = (a.pod("default/client"), b.pod("default/far"));
    let _servers = [
        topology.outside.serve("outside", &["tcp:80", "udp:53"]),
        second.serve("second", &["tcp:80", "udp:53"]),
        far.serve("far", &["tcp:80"]),
    ];
    let yaml = [
        service("both", VIP, &["tcp:80->80"]),
        slice_of("both-a", "both", &["tcp:80->80"], &[SECOND_OUTSIDE.to_string()]),
    ];
    topology.apply("both", &yaml.join("---"));
    eventually("the Service", || pod.connect("tcp", &format!("{VIP}:80")));
    for (what, host) in pod.both_paths() {
        for (protocol, port) in [("tcp", 80), ("udp", 53)] {
            for (server, address) in [(OUTSIDE, a.address), (SECOND_OUTSIDE, ETH1)] {
                let (response, _) = host
                    .connect(protocol, &format!("{server}:{port}"))
                    .unwrap_or_else(|e| panic!("{what}, {server} by {protocol}: {e}"));
                assert_eq!(response.client.ip(), address, "{what}, {server} by {protocol}");
            }
        }
        let (response, _) = host.connect("tcp", &format!("{VIP}:80")).unwrap();
        assert_eq!(response.client.ip(), ETH1, "{what}");
        let (response, _) = host.connect("tcp", &far.at(80)).unwrap();
        assert_eq!(response.client.ip(), pod.address, "{what}");
    }
    let status = a.sluice(&["status"]);
    assert!(status.contains("programs ethernet, address 198.51.100.11, MTU 1500"), "{status}");
}

#[test]
fn programs_follow_a_device_that_appears_and_loses_its_routes() {
    let topology = Topology::new();
    let node = topology.node(1);
    let _agent = node.agent();
    let pod = node.pod("default/client");
    let (_, second) = topology.second_uplink(&node);
    let _server = second.serve("second", &["tcp:80"]);
    let server = format!("{SECOND_OUTSIDE}:80");
    ip(&node.namespaces, "route add 198.18.0.0/24 via 198.51.100.1");
    reaches_as(&pod, "tcp", &server, ETH1);
    // A connection survives that the device is down for a moment.
    let hold = pod.hold("tcp", &server);
    ip(&node.namespaces, "link set eth1 down");
    ip(&node.namespaces, "link set eth1 up");
    ip(&node.namespaces, "route add 198.18.0.0/24 via 198.51.100.1");
    reaches_as(&pod, "tcp", &server, ETH1);
    let report: netns_tests::peer::HoldReport = hold.finish();
    assert!(report.errors.is_empty(), "{report:?}");
    // Without routes, the device loses its programs.
    ip(&node.namespaces, "addr flush dev eth1");
    eventually("no programs on eth1", || {
        let status = node.sluice(&["status"]);
        if status.contains("Device eth1") { Err(status) } else { Ok(()) }
    });
}

#[test]
fn device_outside_of_the_choice_gets_no_programs_and_no_masquerading() {
    let topology = Topology::new();
    let node = topology.node(1);
    let (router, second) = topology.second_uplink(&node);
    ip(&node.namespaces, "route add 198.18.0.0/24 via 198.51.100.1");
    // The other network knows the pods' addresses.
    ip(&router, "route add 10.244.1.0/24 via 198.51.100.11");
    let _agent = node.agent_with(&["--devices=eth0,wg*"]);
    let pod = node.pod("default/client");
    let _servers =
        [second.serve("second", &["tcp:80"]), topology.outside.serve("outside", &["tcp:80"])];
    reaches_as(&pod, "tcp", &format!("{SECOND_OUTSIDE}:80"), pod.address);
    reaches_as(&pod, "tcp", &format!("{OUTSIDE}:80"), node.address);
    let (_, status) = node.try_sluice(&["status"]);
    assert!(status.contains("Device eth1:"), "{status}");
    assert!(status.contains("programs none, MTU 1500"), "{status}");
}

#[test]
fn path_mtu_of_each_route_is_discovered() {
    const BULK: usize = 2 << 20;
    let topology = Topology::new();
    let (node, second) = default_route_by_eth1(&topology);
    ip(&node.namespaces, "route add 198.18.0.0/24 via 198.51.100.1 mtu lock 1300");
    let _agent = node.agent();
    let pod = node.pod("default/client");
    let _server = second.serve("second", &["tcp:8080"]);
    let yaml = [
        service("second", VIP, &["tcp:80->8080"]),
        slice_of("second-a", "second", &["tcp:80->8080"], &[SECOND_OUTSIDE.to_string()]),
    ];
    topology.apply("second", &yaml.join("---"));
    let service = format!("{VIP}:80");
    eventually("the Service", || pod.connect("tcp", &service));
    // The capture has segments, not what the kernel would cut into them later.
    ip(&pod.sandbox.namespaces, "link set eth0 gso_max_segs 1");
    let capture = node.capture("eth1", &topology.capture_file("eth1"));
    for (what, host) in pod.both_paths() {
        for target in [format!("{SECOND_OUTSIDE}:8080"), service.clone()] {
            ip(&pod.sandbox.namespaces, "route flush cache");
            assert_eq!(host.upload(&target, BULK), Ok(BULK), "{what}, upload to {target}");
            assert_eq!(host.download(&target, BULK), Ok(BULK), "{what}, download from {target}");
        }
    }
    let sent = capture.finish();
    let sent = sent.iter().filter(|packet| packet.get(12..16) == Some(&ETH1.octets()));
    assert_eq!(sent.map(Vec::len).max(), Some(1300), "packets by eth1");
    ip(&pod.sandbox.namespaces, "route flush cache");
    assert_eq!(pod.ping(&SECOND_OUTSIDE.to_string(), 1273), Echo::Error(3, 4));
    assert_eq!(pod.ping(&SECOND_OUTSIDE.to_string(), 1272), Echo::Reply(1272));
}

/// As behind docker0: a bridge with a container, whose packets netfilter does not translate.
#[test]
fn container_of_other_software_behind_a_bridge_is_reached_with_the_address_of_the_bridge() {
    let topology = Topology::new();
    let node = topology.node(1);
    let container = Host::of(&netns_tests::Namespaces::host());
    let path = container.namespaces().net_path();
    ip(&node.namespaces, "link add docker0 type bridge forward_delay 0");
    ip(&node.namespaces, "addr add 172.17.0.1/16 dev docker0");
    ip(&node.namespaces, "link set docker0 up");
    ip(
        &node.namespaces,
        &format!("link add veth1 type veth peer name eth0 netns {}", path.display()),
    );
    ip(&node.namespaces, "link set veth1 master docker0 up");
    ip(container.namespaces(), "addr add 172.17.0.2/16 dev eth0");
    ip(container.namespaces(), "link set eth0 up");
    ip(container.namespaces(), "route add default via 172.17.0.1");
    let _agent = node.agent();
    let pod = node.pod("default/client");
    let _servers = [container.serve("container", &["tcp:80"]), pod.serve("pod", &["tcp:80"])];
    reaches_as(&pod, "tcp", "172.17.0.2:80", Ipv4Addr::new(172, 17, 0, 1));
    topology
        .apply("web", &netns_tests::manifest::service_with("web", VIP, &["tcp:80->80"], &[&pod]));
    eventually("a Service from the container", || container.connect("tcp", &format!("{VIP}:80")));
    reaches_as(&container, "tcp", &pod.at(80), Ipv4Addr::new(172, 17, 0, 2));
    let status = node.sluice(&["status"]);
    assert!(status.contains("Device docker0"), "{status}");
    assert!(!status.contains("Device veth1"), "{status}");
}

/// A VPN: a TUN device, whose packets have no Ethernet header.
#[test]
fn traffic_passes_a_device_without_an_ethernet_header_in_both_directions() {
    let topology = Topology::new();
    let node = topology.node(1);
    let peer = Host::of(&netns_tests::Namespaces::host());
    let _tunnel =
        netns_tests::Tunnel::between((&node.namespaces, "vpn0"), (peer.namespaces(), "vpn0"));
    sysctl(peer.namespaces(), "net/ipv4/ip_forward", "1");
    ip(&node.namespaces, "addr add 10.99.0.1/24 dev vpn0");
    ip(&node.namespaces, "link set vpn0 mtu 1400 up");
    ip(peer.namespaces(), "addr add 10.99.0.2/24 dev vpn0");
    ip(peer.namespaces(), "addr add 10.98.0.1/32 dev lo");
    ip(peer.namespaces(), "link set vpn0 mtu 1400 up");
    ip(&node.namespaces, "route add 10.98.0.0/16 dev vpn0");
    ip(peer.namespaces(), "route add 10.96.0.0/16 via 10.99.0.1");
    ip(peer.namespaces(), "route add 10.244.1.0/24 via 10.99.0.1");
    let _agent = node.agent();
    let (pod, web) = (node.pod("default/client"), node.pod("default/web"));
    let _servers = [
        peer.serve("peer", &["tcp:80", "udp:53"]),
        web.serve("web", &["tcp:80", "udp:53"]),
        topology.outside.serve("outside", &["tcp:80"]),
    ];
    let yaml = [
        service("peer", VIP, &["tcp:80->80"]),
        slice_of("peer-a", "peer", &["tcp:80->80"], &["10.98.0.1".to_owned()]),
    ];
    topology.apply("peer", &yaml.join("---"));
    let web_service = "10.96.9.10:80";
    topology.apply(
        "web",
        &netns_tests::manifest::service_with("web", "10.96.9.10", &["tcp:80->80"], &[&web]),
    );
    let vpn = Ipv4Addr::new(10, 99, 0, 1);
    let service = format!("{VIP}:80");
    const BULK: usize = 1 << 20;
    for (what, host) in pod.both_paths() {
        reaches_as(&host, "tcp", "10.98.0.1:80", vpn);
        reaches_as(&host, "udp", "10.99.0.2:53", vpn);
        reaches_as(&host, "tcp", &service, vpn);
        for target in ["10.98.0.1:80", &service] {
            assert_eq!(host.upload(target, BULK), Ok(BULK), "{what}, upload to {target}");
            assert_eq!(host.download(target, BULK), Ok(BULK), "{what}, download from {target}");
        }
    }
    // From the VPN to a pod and to a Service; the node's own traffic by the VPN.
    reaches_as(&peer, "tcp", &web.at(80), Ipv4Addr::new(10, 99, 0, 2));
    eventually("a Service by the VPN", || peer.connect("tcp", web_service));
    assert_eq!(peer.download(web_service, BULK), Ok(BULK));
    assert_eq!(peer.upload(web_service, BULK), Ok(BULK));
    reaches_as(&node, "tcp", "10.98.0.1:80", vpn);
    let without = node.without_socket_programs();
    eventually("a Service by the node's stack", || without.connect("tcp", &service));
    // No server listens: the error returns through the VPN.
    assert!(peer.connect("tcp", "10.96.9.10:81").is_err_and(|e| e == "ConnectionRefused"));
    reaches_as(&pod, "tcp", &format!("{OUTSIDE}:80"), node.address);
    let status = node.sluice(&["status"]);
    assert!(status.contains("programs ip, address 10.99.0.1, MTU 1400"), "{status}");
}
