//! Each property of a pod's network, changed one at a time.

use super::*;
use crate::ROUTE_PROTOCOL;
use crate::lease::fixture;

fn lease() -> Lease {
    fixture::lease("c1")
}

fn observed() -> Observed {
    let lease = lease();
    let (host_mac, pod_mac) = identity::macs(&lease.key);
    let link = |index, name: &str, mac| Link {
        index,
        name: name.into(),
        mac: Some(mac),
        alias: None,
        mtu: 1500,
        up: true,
        layer: crate::device::LinkLayer::Ethernet,
        loopback: false,
        master: None,
        veth: false,
        vlan_of: None,
    };
    Observed {
        host_end: link(12, &lease.host_ifname, host_mac),
        pod_end: link(2, "eth0", pod_mac),
        pod_addresses: vec![(lease.address, 32)],
        pod_routes: pod_routes(2).into(),
        gateway_mac: Some(host_mac),
        host_routes: vec![host_route(lease.address, 12)],
        pod_mac: Some(pod_mac),
        programs: vec![("from_pod".into(), true), ("to_pod".into(), true)],
        row: Some(inventory::local_pod(&lease, &link(12, &lease.host_ifname, host_mac))),
        host_port: None,
        sysctl: None,
    }
}

#[test]
fn a_complete_network_has_no_difference() {
    assert_eq!(observed().difference(&lease()), None);
    let mut observed = observed();
    observed.pod_addresses.insert(0, (Ipv4Addr::new(10, 0, 0, 1), 24));
    for routes in [&mut observed.pod_routes, &mut observed.host_routes] {
        routes.iter_mut().for_each(|route| (route.protocol, route.priority) = (3, 100));
    }
    assert_ne!(ROUTE_PROTOCOL, 3);
    assert_eq!(observed.difference(&lease()), None, "additions and metrics of others are ignored");
}

#[test]
fn each_difference_is_reported_with_its_object() {
    type Change = fn(&mut Observed);
    let host = lease().host_ifname;
    let cases: [(Change, &str); 22] = [
        (|o| o.host_end.up = false, &format!("network device {host} is down")),
        (|o| o.pod_end.up = false, "network device eth0 is down"),
        (|o| o.host_end.mac = None, &format!("network device {host} has a different MAC address")),
        (|o| o.pod_end.mac = o.host_end.mac, "network device eth0 has a different MAC address"),
        (|o| o.pod_addresses.clear(), "network device eth0 lacks address 10.244.1.7/32"),
        (|o| o.pod_addresses[0].1 = 24, "network device eth0 lacks address 10.244.1.7/32"),
        (|o| o.pod_routes.truncate(0), "the pod lacks the route to 169.254.1.1/32"),
        (|o| o.pod_routes.truncate(1), "the pod lacks the route to 0.0.0.0/0"),
        (|o| o.pod_routes[1].oif = 3, "the pod lacks the route to 0.0.0.0/0"),
        (|o| o.pod_routes[1].gateway = None, "the pod lacks the route to 0.0.0.0/0"),
        (|o| o.gateway_mac = None, "the pod lacks the permanent neighbour entry for 169.254.1.1"),
        (
            |o| o.gateway_mac = o.pod_mac,
            "the pod lacks the permanent neighbour entry for 169.254.1.1",
        ),
        (|o| o.host_routes.clear(), "the node lacks the route to 10.244.1.7"),
        (|o| o.host_routes[0].oif = 13, "the node lacks the route to 10.244.1.7"),
        (|o| o.pod_mac = None, "the node lacks the permanent neighbour entry for 10.244.1.7"),
        (
            |o| o.pod_mac = o.gateway_mac,
            "the node lacks the permanent neighbour entry for 10.244.1.7",
        ),
        (|o| o.programs[0].1 = false, &format!("program from_pod is not attached to {host}")),
        (|o| o.programs[1].1 = false, &format!("program to_pod is not attached to {host}")),
        (
            |o| {
                o.host_port = Some(HostPort {
                    host_ip: Ipv4Addr::UNSPECIFIED,
                    host_port: 8080,
                    container_port: 80,
                    protocol: crate::Protocol::Tcp,
                });
            },
            "HOST_PORTS has no row from 0.0.0.0:8080 to 10.244.1.7",
        ),
        (|o| o.row = None, "LOCAL_PODS and PODS have no row for 10.244.1.7"),
        (
            |o| {
                o.row.iter_mut().for_each(|row| row.ifindex = 13);
            },
            "the LOCAL_PODS row of 10.244.1.7 is wrong",
        ),
        (
            |o| {
                o.row.iter_mut().for_each(|row| row.host_mac = row.pod_mac);
            },
            "the LOCAL_PODS row of 10.244.1.7 is wrong",
        ),
    ];
    for (change, expected) in cases {
        let mut observed = observed();
        change(&mut observed);
        assert_eq!(observed.difference(&lease()).as_deref(), Some(expected));
    }
}
