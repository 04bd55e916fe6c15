//! Fragments, narrow links, spoofed sources, and the node's own filters.

use std::net::Ipv4Addr;

use netns_tests::manifest::{service, service_with, slice_of};
use netns_tests::peer::Echo;
use netns_tests::{OUTSIDE, Topology, TopologyOptions, command, dataplane, eventually, ip};
use serde_json::Value;
use sluice_abi::DropReason;

use crate::{two_nodes, two_nodes_in, two_nodes_with_open_pods};

const VIP: &str = "10.96.9.9";

#[test]
fn fragmented_datagrams_reach_pods_and_services() {
    let t = two_nodes();
    let (web, far) = (t.a.pod("default/web"), t.b.pod("default/far"));
    let client = t.a.pod("default/client");
    let _servers = [web.serve("web", &["udp:5353"]), far.serve("far", &["udp:5353"])];
    t.topology.apply("near", &service_with("near", VIP, &["udp:53->5353"], &[&web]));
    t.topology.apply("far", &service_with("far", "10.96.9.10", &["udp:53->5353"], &[&far]));
    for (what, host) in client.both_paths() {
        for target in [web.at(5353), far.at(5353), format!("{VIP}:53"), "10.96.9.10:53".into()] {
            eventually(&target, || host.connect("udp", &target));
            for size in ["8000", "30000"] {
                let options = ["--size", size, "--times", "5"];
                for exchange in host.connect_with("udp", &target, &options) {
                    let (_, from) = exchange.unwrap_or_else(|e| panic!("{what}, {target}: {e}"));
                    assert_eq!(from.to_string(), target);
                }
            }
        }
    }
}

#[test]
fn pods_discover_the_path_mtu_of_a_narrow_link() {
    let t = two_nodes_in(Topology::with(TopologyOptions {
        narrow_link: 1280,
        ..TopologyOptions::default()
    }));
    let pod = t.a.pod("default/client");
    let _server = t.topology.outside.serve("outside", &["tcp:8080"]);
    let yaml = [
        service("outside", VIP, &["tcp:80->8080"]),
        slice_of("outside-a", "outside", &["tcp:80->8080"], &[OUTSIDE.to_string()]),
    ];
    t.topology.apply("outside", &yaml.join("---"));
    const BULK: usize = 4 << 20;
    let service = format!("{VIP}:80");
    for (what, host) in pod.both_paths() {
        eventually("the Service", || host.connect("tcp", &service));
        // The path MTU that the first one discovers is cached for ten minutes: flush it.
        for target in [format!("{OUTSIDE}:8080"), service.clone()] {
            ip(&pod.sandbox.namespaces, "route flush cache");
            ip(&t.a.namespaces, "route flush cache");
            assert_eq!(host.upload(&target, BULK), Ok(BULK), "{what}, upload to {target}");
            assert_eq!(host.download(&target, BULK), Ok(BULK), "{what}, download from {target}");
        }
    }
    // Larger than the link, with don't fragment: the first one returns the path MTU.
    ip(&pod.sandbox.namespaces, "route flush cache");
    ip(&t.a.namespaces, "route flush cache");
    assert_eq!(pod.ping(&OUTSIDE.to_string(), 1300), Echo::Error(3, 4));
    assert_eq!(pod.ping(&OUTSIDE.to_string(), 1300), Echo::Reply(1300));
}

#[test]
fn pod_cannot_send_from_an_address_other_than_its_own() {
    let t = two_nodes_with_open_pods();
    let (pod, near, far) =
        (t.a.pod("default/web"), t.a.pod("default/near"), t.b.pod("default/far"));
    let spoofed = || dataplane::dropped(&t.a, DropReason::Spoofed);
    let before = spoofed();
    let targets = [&*near, &*far, &*t.a, &t.topology.outside].map(|host| host.receive(7777));
    let addresses = [near.address, far.address, t.a.address, OUTSIDE];
    let sources = [
        near.address.to_string(),
        t.a.address.to_string(),
        "10.244.1.250".into(),
        "8.8.8.8".into(),
    ];
    let mut sent = 0;
    for mut target in targets.into_iter().zip(addresses) {
        let destination = format!("{}:7777", target.1);
        for source in &sources {
            if *source != target.1.to_string() {
                pod.send_from(source, &destination);
                sent += 1;
            }
        }
        // Datagrams keep their order here: the first that arrives is the valid one.
        pod.send_from(&pod.address.to_string(), &destination);
        let seen = target.0.line();
        let valid = if target.1 == OUTSIDE { t.a.address } else { pod.address };
        assert_eq!(seen, valid.to_string(), "to {destination}");
    }
    assert_eq!(spoofed() - before, sent);
}

/// A UDP datagram to port 7777 in a frame with VLAN tags.
fn tagged(macs: (&str, &str), tags: &[u16], source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let mac = |text: &str| text.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    let (to, from): (Vec<u8>, Vec<u8>) = (mac(macs.0), mac(macs.1));
    let mut header = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0];
    header.extend(source.octets());
    header.extend(destination.octets());
    let words = header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum: u32 = words.sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    let tags = tags.iter().flat_map(|id| [[0x81, 0], id.to_be_bytes()].concat());
    let udp = [0x9c, 0x40, 0x1e, 0x61, 0, 9, 0, 0, b'x'];
    [to, from, tags.collect(), vec![8, 0], header, udp.to_vec()].concat()
}

/// The stack removes the tag of VLAN 0 and routes the packet: no check may be skipped for it.
#[test]
fn pod_cannot_send_frames_with_a_vlan_tag() {
    let t = two_nodes_with_open_pods();
    let (pod, near, far) =
        (t.a.pod("default/web"), t.a.pod("default/near"), t.b.pod("default/far"));
    let mac = |end: usize| pod.result["interfaces"][end]["mac"].as_str().unwrap().to_owned();
    let (host_end, own) = (mac(0), mac(1));
    let macs = (host_end.as_str(), own.as_str());
    let free: Ipv4Addr = "10.244.1.250".parse().unwrap();
    let targets =
        [(&*near, near.address, &far), (&*far, far.address, &near), (&*t.a, t.a.address, &near)];
    for (host, address, other) in targets {
        let mut target = host.receive(7777);
        for tags in [&[0][..], &[5], &[0, 0], &[0, 5], &[5, 0]] {
            for source in [free, OUTSIDE, pod.address] {
                pod.send_frame("eth0", &tagged(macs, tags, source, address));
            }
        }
        // Without a tag, the same frame arrives; it is the only one of this pod.
        pod.send_frame("eth0", &tagged(macs, &[], pod.address, address));
        assert_eq!(target.line(), pod.address.to_string(), "to {address}");
        other.send_from(&other.address.to_string(), &format!("{address}:7777"));
        assert_eq!(target.line(), other.address.to_string(), "to {address}");
    }
}

#[test]
fn strict_reverse_path_filters_pass_pod_traffic() {
    let topology = Topology::new();
    let node = topology.node(1);
    // The default of systemd for every new link, the veths of pods included.
    node.sysctl("net/ipv4/conf/default/rp_filter", "1");
    node.sysctl("net/ipv4/conf/eth0/rp_filter", "1");
    let _agent = node.agent();
    let (web, client) = (node.pod("default/web"), node.pod("default/client"));
    let _servers = [web.serve("web", &["tcp:80"]), topology.outside.serve("outside", &["tcp:80"])];
    for host in [&*client, &*node] {
        assert!(host.connect("tcp", &web.at(80)).is_ok());
        assert!(host.connect("tcp", &format!("{OUTSIDE}:80")).is_ok());
    }
}

#[test]
fn firewall_that_drops_invalid_conntrack_states_passes_pod_traffic() {
    let t = two_nodes();
    for node in [&t.a, &t.b] {
        for rule in ["INPUT", "FORWARD", "OUTPUT"] {
            let drop = ["-A", rule, "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"];
            command(&node.namespaces, "iptables", &drop);
        }
    }
    let (web, far) = (t.a.pod("default/web"), t.b.pod("default/far"));
    let client = t.a.pod("default/client");
    let _servers = [
        web.serve("web", &["tcp:80"]),
        far.serve("far", &["tcp:80"]),
        t.topology.outside.serve("outside", &["tcp:80"]),
        t.a.serve("node1", &["tcp:8000"]),
    ];
    const BULK: usize = 4 << 20;
    for host in [&*client, &*far, &*t.a, &*t.b] {
        for target in [web.at(80), far.at(80), format!("{OUTSIDE}:80")] {
            assert_eq!(host.download(&target, BULK), Ok(BULK), "{target}");
            assert_eq!(host.upload(&target, BULK), Ok(BULK), "{target}");
        }
    }
    assert!(client.connect("tcp", &format!("{}:8000", t.a.address)).is_ok());
}

#[test]
fn fragments_to_the_outside_are_masqueraded_in_both_directions() {
    let t = two_nodes_with_open_pods();
    let pod = t.a.pod("default/web");
    let _server = t.topology.outside.serve("outside", &["tcp:80", "udp:53"]);
    for (_, host) in pod.both_paths() {
        for protocol in ["udp", "udp-connected"] {
            let server = format!("{OUTSIDE}:53");
            let exchange = host.connect_with(protocol, &server, &["--size", "8000"]).remove(0);
            let (response, from) = exchange.unwrap_or_else(|e| panic!("{protocol}: {e}"));
            assert_eq!(response.client.ip(), t.a.address, "{protocol}");
            assert_eq!(from.to_string(), server);
        }
    }
}

/// Rules of other software for its marks: here, whatever has any mark has no route.
#[test]
fn rules_for_marks_of_other_software_do_not_hold_for_traffic_of_pods() {
    let t = two_nodes();
    for node in [&t.a, &t.b] {
        ip(&node.namespaces, "route add unreachable default table 52");
        ip(&node.namespaces, "rule add not fwmark 0 lookup 52 pref 100");
    }
    let (web, far) = (t.a.pod("default/web"), t.b.pod("default/far"));
    let client = t.a.pod("default/client");
    let _servers = [
        web.serve("web", &["tcp:80", "udp:53"]),
        far.serve("far", &["tcp:80", "udp:53"]),
        t.topology.outside.serve("outside", &["tcp:80", "udp:53"]),
        t.a.serve("node1", &["tcp:80", "udp:53"]),
    ];
    t.topology
        .apply("web", &service_with("web", VIP, &["tcp:80->80", "udp:53->53"], &[&web, &far]));
    eventually("the Service", || client.connect("tcp", &format!("{VIP}:80")));
    let [sockets, packets] = client.both_paths().map(|(_, host)| host);
    let servers = [web.address, far.address, OUTSIDE, t.a.address, VIP.parse().unwrap()];
    for host in [&sockets, &packets, &*far, &*t.a, &*t.b] {
        for (protocol, port) in [("tcp", 80), ("udp", 53)] {
            for server in servers {
                let exchange = host.connect(protocol, &format!("{server}:{port}"));
                assert!(exchange.is_ok(), "{server} by {protocol}: {exchange:?}");
            }
        }
    }
}

/// What Sluice passes to the stack, it also passes to the filters of other software.
#[test]
fn filters_of_other_software_see_what_passes_to_the_stack() {
    let topology = Topology::new();
    let node = topology.node(1);
    let _agent = node.agent();
    let pod = node.pod("default/client");
    let _server = node.serve("node1", &["tcp:80"]);
    let tc = |line: &str| command(&node.namespaces, "tc", &line.split(' ').collect::<Vec<_>>());
    // Their packets are also sent to a device, by which the kernel counts them.
    ip(&node.namespaces, "link add mirror type veth peer name mirrored");
    ip(&node.namespaces, "link set mirror up");
    // The packets of the pod, of a host outside, and of the node to that host.
    let hooks = [(pod.host_device(), "ingress"), ("eth0", "ingress"), ("eth0", "egress")];
    for (device, _) in &hooks[..2] {
        // The devices have it where the programs are attached by clsact.
        let qdiscs = tc(&format!("qdisc show dev {device}"));
        if !qdiscs.contains("clsact") {
            tc(&format!("qdisc add dev {device} clsact"));
        }
    }
    for (device, direction) in hooks {
        let place = format!("dev {device} {direction} pref 50000 protocol ip");
        let every = ["bpf", "bytecode", "1,6 0 0 4294967295"];
        let mirror = ["action", "mirred", "egress", "mirror", "dev", "mirror"];
        let filter = format!("filter add {place}");
        let arguments = filter.split(' ').chain(every).chain(mirror);
        command(&node.namespaces, "tc", &arguments.collect::<Vec<_>>());
    }
    for client in [&*pod, &topology.outside] {
        for _ in 0..5 {
            client.connect("tcp", &format!("{}:80", node.address)).unwrap();
        }
    }
    for (device, direction) in hooks {
        let filters = tc(&format!("-s -j filter show dev {device} {direction} pref 50000"));
        let filters: Value = serde_json::from_str(&filters).unwrap();
        let packets = filters
            .as_array()
            .unwrap()
            .iter()
            .find_map(|filter| filter["options"]["actions"][0]["stats"]["packets"].as_u64());
        // At least three segments of each connection.
        assert!(packets >= Some(15), "{device}, {direction}: {packets:?} in {filters}");
    }
}
