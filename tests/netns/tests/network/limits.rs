//! Limits of the specification that a node with an agent shows.

use netns_tests::cni::code;
use netns_tests::manifest::{namespace, service_with};
use netns_tests::{
    NodeOptions, OUTSIDE, Topology, dataplane, eventually, kernel_is_at_least, skip,
};
use sluice_abi::{DropReason, map};

use crate::two_nodes;

#[test]
fn maps_have_the_documented_capacities() {
    let topology = Topology::new();
    let node = topology.node(1);
    let _agent = node.agent();
    for (name, entries) in [
        (map::FRONTENDS, 8_192),
        (map::SERVICES, 4_096),
        (map::SLOTS, 32_768),
        (map::BACKENDS, 32_768),
        (map::SOURCE_RANGES, 262_144),
        (map::POLICY_CLASSES, 65_536),
        (map::POLICY_PEERS, 16_384),
        (map::AFFINITY, 32_768),
        (map::UDP_SOCKETS, 32_768),
        (map::FLOWS, 262_144),
        (map::FLOWS_NEW_POD, 32_768),
        (map::FLOWS_NEW_WIRE, 16_384),
        (map::LOCAL_PODS, 4_096),
    ] {
        assert_eq!(dataplane::capacity(&node, name), entries, "{name}");
    }
    let config = dataplane::node_config(&node);
    // Without NodePorts and the default of net.ipv4.ip_local_port_range.
    let ports = config.snat_ports.map(|range| (range.first, range.last));
    assert_eq!(ports, [(1024, 29_999), (61_000, 65_535), (0, 0), (0, 0)]);
    assert_eq!((config.flows_per_pod, config.flows_without_pod), (131_072, 131_072));
    assert_ne!(config.snat_key, [0, 0]);
}

/// Maps of an agent without Services and flows, those that only the programs use included.
#[test]
fn idle_maps_take_at_most_24_mib() {
    if !kernel_is_at_least(6, 4) {
        return skip("before Linux 6.4, the kernel reports the memory of a full map");
    }
    let topology = Topology::new();
    let node = topology.node(1);
    let _agent = node.agent();
    let _pod = node.pod("default/web");
    let maps = dataplane::memory(&node);
    for map in maps.iter().filter(|map| map.bytes >= 64 << 10) {
        println!("    {:16} {:>8} entries {:>8} KiB", map.name, map.entries, map.bytes >> 10);
    }
    let sum: u64 = maps.iter().map(|map| map.bytes).sum();
    println!("    {} maps, {:.1} MiB", maps.len(), sum as f64 / f64::from(1 << 20));
    assert!(maps.len() > map::ALL.len(), "maps that are not pinned count");
    assert!(sum <= 24 << 20, "{sum} bytes: {maps:?}");
}

#[test]
fn pods_of_a_node_are_limited_by_its_pod_cidr() {
    let topology = Topology::new();
    let options = NodeOptions { pod_cidr: Some("10.244.9.0/28") };
    let node = topology.node_with(1, options);
    let _agent = node.agent();
    let pods: Vec<_> = (0..13).map(|n| node.pod(&format!("default/web-{n}"))).collect();
    let late = node.sandbox("default/late");
    node.cni("ADD", &late)
        .error(code::RANGE_EXHAUSTED, &["default/late", "all 13", "10.244.9.0/28"]);
    assert_eq!(dataplane::local_pods(&node), 13);
    let _server = pods[12].serve("last", &["tcp:80"]);
    assert_eq!(pods[0].connect("tcp", &pods[12].at(80)).unwrap().0.server, "last");
}

#[test]
fn masqueraded_flows_to_one_peer_are_limited_by_the_snat_ports() {
    let topology = Topology::new();
    // Pods are open from their first packet if their Namespace exists before.
    topology.apply("default", &namespace("default", &[]));
    let node = topology.node(1);
    let _agent = node.agent_with(&["--snat-ports=61000-61003"]);
    let pod = node.pod("default/client");
    let _server = topology.outside.serve("outside", &["udp:53", "udp:54", "tcp:53"]);
    let connect = |protocol, port: u16, from: &str| {
        pod.connect_with(protocol, &format!("{OUTSIDE}:{port}"), &["--from", from]).remove(0)
    };
    let mut ports = std::collections::BTreeSet::new();
    for from in ["5001", "5002", "5003", "5004"] {
        let (response, _) = connect("udp", 53, from).unwrap();
        assert_eq!(response.client.ip(), node.address);
        ports.insert(response.client.port());
    }
    assert_eq!(ports, (61_000..=61_003).collect());

    let no_port = || dataplane::dropped(&node, DropReason::NoSnatPort);
    let before = no_port();
    let options = ["--from", "5005", "--deadline-ms", "500"];
    let fifth = pod.connect_with("udp", &format!("{OUTSIDE}:53"), &options).remove(0);
    assert_eq!(fifth, Err("TimedOut".to_owned()));
    assert!(no_port() > before);
    // Another peer port or protocol has all ports to itself, and known flows continue.
    let before = no_port();
    for (protocol, port, from) in [("udp", 54, "5005"), ("tcp", 53, "5005"), ("udp", 53, "5001")] {
        connect(protocol, port, from).unwrap_or_else(|e| panic!("{protocol} {port}: {e}"));
    }
    assert_eq!(no_port(), before);
}

#[test]
fn translated_flow_has_two_entries_and_others_one() {
    let t = two_nodes();
    let (web, client) = (t.b.pod("default/web"), t.a.pod("default/client"));
    let _servers =
        [web.serve("web", &["udp:5353"]), t.topology.outside.serve("outside", &["udp:53"])];
    t.topology.apply("web", &service_with("web", "10.96.7.7", &["udp:53->5353"], &[&web]));
    let client = client.without_socket_programs();
    eventually("the Service", || client.connect("udp", "10.96.7.7:53"));
    let before = dataplane::flows(&t.a).len();
    client.connect_with("udp", "10.96.7.7:53", &["--from", "4444"]).remove(0).unwrap();
    assert_eq!(dataplane::flows(&t.a).len(), before + 2, "a Service flow");
    client.connect_with("udp", &format!("{OUTSIDE}:53"), &["--from", "4444"]).remove(0).unwrap();
    assert_eq!(dataplane::flows(&t.a).len(), before + 4, "a masqueraded flow");
    // A flow between pods is not translated.
    client.connect_with("udp", &web.at(5353), &["--from", "5555"]).remove(0).unwrap();
    assert_eq!(dataplane::flows(&t.a).len(), before + 5, "a direct flow");
}

#[test]
fn socket_remembers_eight_translations() {
    let t = two_nodes();
    let (web, client) = (t.b.pod("default/web"), t.a.pod("default/client"));
    let served: Vec<String> = (0..9).map(|n| format!("udp:{}", 6000 + n)).collect();
    let served: Vec<&str> = served.iter().map(String::as_str).collect();
    let _server = web.serve("web", &served);
    let mut services = Vec::new();
    for n in 0..9 {
        let (name, address) = (format!("web-{n}"), format!("10.96.7.{n}"));
        let port = format!("udp:53->{}", 6000 + n);
        t.topology.apply(&name, &service_with(&name, &address, &[&port], &[&web]));
        services.push(format!("{address}:53"));
    }
    for service in &services {
        eventually("the Service", || client.connect("udp", service));
    }
    let sources = |services: &[String]| {
        let mut sources: Vec<String> =
            client.connect_each(services).into_iter().map(|(_, source)| source).collect();
        sources.sort();
        sources
    };
    assert_eq!(sources(&services[..8]), services[..8]);
    // The ninth replaces the first: its response has the endpoint's address.
    let mut expected = services[1..].to_vec();
    expected.push(web.at(6000));
    expected.sort();
    assert_eq!(sources(&services), expected);
}

#[test]
fn udp_port_shared_by_service_and_its_endpoint_gets_each_response_from_where_it_sent_to() {
    let t = two_nodes();
    let (web, client) = (t.b.pod("default/web"), t.a.pod("default/client"));
    let _server = web.serve("web", &["udp:5353"]);
    let service = "10.96.7.7:53";
    t.topology.apply("web", &service_with("web", "10.96.7.7", &["udp:53->5353"], &[&web]));
    for (what, host) in client.both_paths() {
        let from = ["--from", "4444"];
        eventually("the Service", || host.connect_with("udp", service, &from).remove(0));
        let (_, peer) = host.connect_with("udp", &web.at(5353), &from).remove(0).unwrap();
        assert_eq!(peer.to_string(), web.at(5353), "{what}");
    }
}

#[test]
fn agent_refuses_an_mtu_outside_of_576_to_65535() {
    let topology = Topology::new();
    let node = topology.node(1);
    for mtu in ["575", "65536", "0"] {
        let text = node.agent_fails(&["--mtu", mtu]);
        assert!(text.contains("--mtu") && text.contains(mtu), "{text}");
    }
    for mtu in [576, 9000] {
        let agent = node.agent_with(&["--mtu", &mtu.to_string()]);
        assert_eq!(node.config()["mtu"], mtu);
        agent.kill();
    }
}
