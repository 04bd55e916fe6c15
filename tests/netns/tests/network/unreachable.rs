//! Addresses that no pod or Service has, with routers that send the packets back.

use std::net::Ipv4Addr;

use netns_tests::peer::{Echo, HOST_UNREACHABLE, UNANSWERED};
use netns_tests::{
    Host, Node, Topology, TopologyOptions, agents, dataplane, eventually_equals, ip_json,
};
use serde_json::json;
use sluice_abi::DropReason;

use crate::two_nodes_with_cluster_routes;

const SERVICE_CIDR: &str = "
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16]}
";

/// A packet to such an address that left its node by the default route would loop between node
/// and router until its TTL is exceeded. The programs drop it; the node's own sockets get the
/// error of the unreachable route.
#[test]
fn packet_to_a_free_pod_address_does_not_loop() {
    let t = two_nodes_with_cluster_routes();
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let router = Host::of(t.topology.router());
    let dropped = || dataplane::dropped(&t.a, DropReason::NoSuchPod);
    // Client, address, its outcome, packets that the programs of node 1 drop, packets that the
    // router's port to the switch sees: each round of a loop passes it twice.
    let timeout = Echo::Timeout;
    for (what, host, address, outcome, drops, at_router) in [
        ("pod on the node", &*near, [10, 244, 1, 200], timeout, 1, 0),
        ("the node", &*t.a, [10, 244, 1, 200], HOST_UNREACHABLE, 0, 0),
        ("pod on another node", &*far, [10, 244, 1, 200], timeout, 1, 0),
        ("another node", &*t.b, [10, 244, 1, 200], timeout, 1, 0),
        ("external client", &t.topology.outside, [10, 244, 1, 200], timeout, 1, 1),
        ("network address", &*far, [10, 244, 1, 0], timeout, 1, 0),
        ("broadcast address", &*far, [10, 244, 1, 255], timeout, 1, 0),
    ] {
        let address = Ipv4Addr::from(address);
        let file = t.topology.capture_file(&format!("router-{}", what.replace(' ', "-")));
        let capture = router.capture("eth0", &file);
        let before = dropped();
        assert_eq!(host.ping_within(&address.to_string(), 56, UNANSWERED), outcome, "{what}");
        let found = (dropped() - before, capture.count_to(address));
        assert_eq!(found, (drops, at_router), "{what}: drops, packets at the router");
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
        assert_eq!(node.ping(&pod.address.to_string(), 56), Echo::Reply(56));
    }
}

/// The range is declared by `--service-cidrs`, or by a ServiceCIDR object.
#[test]
fn packet_to_a_free_service_address_does_not_loop() {
    let topology = Topology::with(TopologyOptions { cluster_routes: true, ..Default::default() });
    let (a, b) = (topology.node(1), topology.node(2));
    let _agents = agents([(&a, &["--service-cidrs=10.96.0.0/16"]), (&b, &[])]);
    free_service_address_does_not_loop(&topology, &a);
}

#[test]
fn packet_to_a_free_address_of_a_service_cidr_object_does_not_loop() {
    let topology = Topology::with(TopologyOptions { cluster_routes: true, ..Default::default() });
    let (a, b) = (topology.node(1), topology.node(2));
    topology.apply("service-cidr", SERVICE_CIDR);
    let _agents = agents([(&a, &[]), (&b, &[])]);
    free_service_address_does_not_loop(&topology, &a);
}

fn free_service_address_does_not_loop(topology: &Topology, a: &Node) {
    let pod = a.pod("default/client");
    let router = Host::of(topology.router());
    let free = Ipv4Addr::new(10, 96, 200, 200);
    let dropped = || dataplane::dropped(a, DropReason::NoSuchService);
    for (what, host, at_router) in [("pod", &*pod, 0), ("external client", &topology.outside, 1)] {
        let file = topology.capture_file(&format!("router-service-{}", what.replace(' ', "-")));
        let capture = router.capture("eth0", &file);
        let before = dropped();
        assert_eq!(host.ping_within(&free.to_string(), 56, UNANSWERED), Echo::Timeout, "{what}");
        let found = (dropped() - before, capture.count_to(free));
        assert_eq!(found, (1, at_router), "{what}: drops, packets at the router");
    }
}
