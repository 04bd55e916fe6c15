//! Addresses that no pod or Service has, with routers that send the packets back.

use std::net::Ipv4Addr;

use netns_tests::peer::HOST_UNREACHABLE;
use netns_tests::{Host, eventually_equals, ip_json};
use serde_json::json;

use crate::two_nodes_with_cluster_routes;

/// A packet to such an address that left its node by the default route would loop between node
/// and router until its TTL is exceeded.
#[test]
fn free_pod_address_is_unreachable_and_does_not_loop() {
    let t = two_nodes_with_cluster_routes();
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let router = Host::of(t.topology.router());
    for (what, host, address, through_router) in [
        ("pod on the node", &*near, [10, 244, 1, 200], 0),
        ("the node", &*t.a, [10, 244, 1, 200], 0),
        ("pod on another node", &*far, [10, 244, 1, 200], 0),
        ("another node", &*t.b, [10, 244, 1, 200], 0),
        ("external client", &t.topology.outside, [10, 244, 1, 200], 2),
        ("network address", &*far, [10, 244, 1, 0], 0),
        ("broadcast address", &*far, [10, 244, 1, 255], 0),
    ] {
        let address = Ipv4Addr::from(address);
        let file = t.topology.capture_file(&format!("router-{}", what.replace(' ', "-")));
        // The router's port to the switch: each round of a loop passes it twice.
        let capture = router.capture("eth0", &file);
        assert_eq!(host.ping(&address.to_string(), 56), HOST_UNREACHABLE, "{what}");
        let seen = capture.count_to(address);
        assert!(seen <= through_router, "{what}: {seen} packets to {address} at the router");
    }
}

#[test]
fn node_has_an_unreachable_route_for_its_pod_range() {
    let t = two_nodes_with_cluster_routes();
    for (node, range) in [(&t.a, "10.244.1.0/24"), (&t.b, "10.244.2.0/24")] {
        let routes = || ip_json(&node.namespaces, "route show type unreachable");
        eventually_equals("unreachable routes", 1, || routes().len());
        let route = &routes()[0];
        assert_eq!(
            (&route["dst"], &route["protocol"], &route["metric"]),
            (&json!(range), &json!("83"), &json!(65_535)),
            "{route}"
        );
        // A pod's own route is more specific.
        let pod = node.pod("default/web");
        assert_eq!(node.ping(&pod.address.to_string(), 56), netns_tests::peer::Echo::Reply(56));
    }
}

/// With `--service-cidrs` the agent knows the range.
#[test]
fn free_service_address_does_not_loop() {
    let topology = netns_tests::Topology::with(netns_tests::TopologyOptions {
        cluster_routes: true,
        ..Default::default()
    });
    let (a, b) = (topology.node(1), topology.node(2));
    let _agents = [a.agent_with(&["--service-cidrs=10.96.0.0/16"]), b.agent()];
    let pod = a.pod("default/client");
    let router = Host::of(topology.router());
    let free = Ipv4Addr::new(10, 96, 200, 200);
    for (what, host, through_router) in
        [("pod", &*pod, 0), ("external client", &topology.outside, 2)]
    {
        let file = topology.capture_file(&format!("router-service-{}", what.replace(' ', "-")));
        let capture = router.capture("eth0", &file);
        let echo = host.ping(&free.to_string(), 56);
        assert_eq!(echo, netns_tests::peer::Echo::Timeout, "{what}");
        let seen = capture.count_to(free);
        assert!(seen <= through_router, "{what}: {seen} packets to {free} at the router");
    }
}
