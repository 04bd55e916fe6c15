//! Nothing of a pod passes before the agent has written the node's tables.

use std::net::{IpAddr, Ipv4Addr};

use netns_tests::cni::code;
use netns_tests::manifest::namespace;
use netns_tests::peer::{Echo, UNANSWERED};
use netns_tests::{OUTSIDE, Topology, dataplane, eventually_equals, ip};
use sluice_abi::{DropReason, FlowKey, NodeConfig, map, node_flags};

fn is_ready(config: &NodeConfig) -> bool {
    config.flags & node_flags::READY != 0
}

#[test]
fn programs_are_ready_only_after_the_tables_are_written() {
    let topology = Topology::new();
    let node = topology.node(1);
    // A map that refuses the agent's writes.
    dataplane::load_all(&node, None);
    dataplane::freeze(&node, map::NETWORKS);
    let agent = node.agent_not_ready(&[]);
    // The configuration is written, without the flag.
    eventually_equals("address of the node in the configuration", true, || {
        dataplane::node_config(&node).addrs[0] == node.address.into()
    });
    agent.wait_log("NETWORKS");
    let config = dataplane::node_config(&node);
    assert_eq!((config.mtu, is_ready(&config)), (1500, false), "{config:?}");
    assert!(!node.exists(netns_tests::CONF_FILE));
    let response = agent.get("/readyz").unwrap();
    assert!(response.starts_with("HTTP/1.1 503"), "{response}");

    // Before that the programs drop what a pod sends.
    let pod = node.pod("default/web");
    let before = dataplane::dropped(&node, DropReason::NotReady);
    assert_eq!(pod.ping_within(&node.address.to_string(), 56, UNANSWERED), Echo::Timeout);
    assert!(dataplane::dropped(&node, DropReason::NotReady) > before);

    // The next agent replaces the map.
    agent.kill();
    let path = dataplane::map_path(map::NETWORKS);
    node.namespaces.run(|| std::fs::remove_file(path).unwrap());
    let agent = node.agent();
    assert!(is_ready(&dataplane::node_config(&node)));
    assert_eq!(pod.ping(&node.address.to_string(), 56), Echo::Reply(56));

    // An agent that writes the configuration, but cannot write the tables, does not withdraw it.
    agent.kill();
    dataplane::freeze(&node, map::NETWORKS);
    let _other = topology.node(2);
    ip(&node.namespaces, "link set eth0 mtu 1300");
    let agent = node.agent_not_ready(&[]);
    eventually_equals("MTU in the configuration", 1300, || dataplane::node_config(&node).mtu);
    let unavailable = |response: String| response.starts_with("HTTP/1.1 503");
    eventually_equals("the agent is not ready", true, || {
        agent.get("/readyz").is_ok_and(unavailable)
    });
    assert!(is_ready(&dataplane::node_config(&node)));
    assert_eq!(pod.ping(&node.address.to_string(), 56), Echo::Reply(56));
}

#[test]
fn calls_are_measured_by_the_agent() {
    let topology = Topology::new();
    let node = topology.node(1);
    let agent = node.agent();
    let pod = node.pod("default/web");
    node.cni("ADD", &pod.sandbox).error(code::INTERFACE_EXISTS, &["eth0"]);
    node.cni("DEL", &pod.sandbox).ok();
    for line in [
        "sluice_cni_duration_seconds_count{verb=\"ADD\"} 2",
        "sluice_cni_duration_seconds_count{verb=\"DEL\"} 1",
        "sluice_cni_errors_total{verb=\"ADD\",code=\"100\"} 1",
    ] {
        eventually_equals(line, true, || agent.metrics().lines().any(|l| l == line));
    }
}

#[test]
fn flows_of_a_removed_pod_are_removed_with_those_of_others_kept() {
    let topology = Topology::new();
    // Pods are open from their first packet if their Namespace exists before.
    topology.apply("default", &namespace("default", &[]));
    let node = topology.node(1);
    let agent = node.agent();
    let (kept, peer) = (node.pod("default/kept"), node.pod("default/peer"));
    let removed = node.pod("default/removed");
    let _server = peer.serve("peer", &["udp:5353"]);
    let address = removed.address;
    for pod in [&kept, &removed] {
        pod.connect("udp", &peer.at(5353)).unwrap();
    }
    let of = |address: Ipv4Addr| {
        let is_end =
            |key: &FlowKey| [key.src, key.dst].map(IpAddr::from).contains(&IpAddr::from(address));
        dataplane::flows(&node).iter().filter(|(key, _)| is_end(key)).count()
    };
    assert_eq!([of(kept.address), of(address)], [1, 1]);
    node.cni("DEL", &removed.sandbox).ok();
    eventually_equals("flows of the removed pod", 0, || of(address));
    assert_eq!(of(kept.address), 1);
    eventually_equals("sluice_flows_removed_total 1", true, || {
        agent.metrics().lines().any(|line| line == "sluice_flows_removed_total 1")
    });
}

#[test]
fn flows_of_a_pod_and_the_fill_of_maps_are_metrics() {
    let topology = Topology::new();
    // Pods are open from their first packet if their Namespace exists before.
    topology.apply("default", &namespace("default", &[]));
    let node = topology.node(1);
    let agent = node.agent();
    let pod = node.pod("default/web");
    let peer = node.pod("default/peer");
    assert_eq!(pod.ping(&peer.address.to_string(), 56), Echo::Reply(56));
    let _resolver = topology.outside.serve("resolver", &["udp:53"]);
    pod.connect("udp", &format!("{OUTSIDE}:53")).unwrap();
    let value = |name: &str| {
        let metrics = agent.metrics();
        let sample = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        sample.and_then(|value| value.parse::<u32>().ok())
    };
    for (name, least) in [
        ("sluice_map_entries{map=\"NETWORKS\"}", 1),
        ("sluice_map_capacity{map=\"NETWORKS\"}", 65_536),
        ("sluice_snat_ports_used_max", 1),
        ("sluice_flow_entries_of_a_pod_limit", 131_072),
        ("sluice_flow_entries_without_pod_limit", 131_072),
        ("sluice_pod_flow_entries{namespace=\"default\",pod=\"web\"}", 1),
    ] {
        eventually_equals(name, true, || value(name).is_some_and(|value| value >= least));
    }
}
