//! Access from outside the cluster, and clients.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::traffic_policy;
use crate::model::{ExternalAccess, NodePortAddresses, Port, parse_cidr};
use crate::oracle::Client;

/// NodePorts in use. One is also the port of Services, so that addresses and NodePorts collide.
pub const NODE_PORTS: [u16; 2] = [443, 30_080];

/// External IPs and addresses of load balancers in use: outside the cluster, of Services, of this
/// node and of another, and of a pod.
pub fn external_addresses() -> Vec<IpAddr> {
    let v4 = [
        [203, 0, 113, 1],
        [203, 0, 113, 2],
        [10, 96, 0, 3],
        [172, 18, 0, 2],
        [172, 18, 0, 3],
        [10, 244, 2, 2],
    ];
    let v6 = [0xfd00, 0x99, 0, 0, 0, 0, 0, 1u16];
    v4.into_iter().map(IpAddr::from).chain([v6.into()]).collect()
}

/// Clients and their addresses, in the family of a destination.
pub fn clients(v4: bool) -> Vec<(Client, IpAddr)> {
    let address = |of_v4: [u8; 4], of_v6: u16| {
        if v4 { IpAddr::from(of_v4) } else { IpAddr::from([0xfd00, of_v6, 0, 0, 0, 0, 0, 7]) }
    };
    let vip = external_addresses().into_iter().find(|a| a.is_ipv4() == v4);
    vec![
        (Client::Pod, address([10, 244, 1, 7], 1)),
        (Client::Node, address([172, 18, 0, 2], 0)),
        (Client::Node, vip.unwrap_or(address([172, 18, 0, 2], 0))),
        (Client::Other, address([198, 51, 100, 7], 0x98)),
        (Client::Other, address([10, 244, 2, 7], 2)),
    ]
}

/// The port of a Service at every node.
pub fn node_port() -> impl Strategy<Value = Option<Port>> {
    option::weighted(0.3, select(&NODE_PORTS[..]).prop_filter_map("a port", Port::new))
}

/// The addresses that serve NodePorts.
pub fn node_port_addresses() -> impl Strategy<Value = NodePortAddresses> {
    let ranges = ["172.18.0.2/31", "127.0.0.0/8", "10.0.0.0/8", "fc00::/64", "0.0.0.0/0"];
    let range = select(ranges.to_vec()).prop_filter_map("a CIDR", parse_cidr);
    prop_oneof![
        2 => Just(NodePortAddresses::All),
        1 => Just(NodePortAddresses::Primary),
        2 => vec(range, 1..3).prop_map(NodePortAddresses::Ranges),
    ]
}

/// Access from outside.
pub fn access() -> impl Strategy<Value = Option<ExternalAccess>> {
    let addresses = || vec(select(external_addresses()), 0..3);
    let ranges = [
        "198.51.100.0/24",
        "172.18.0.0/24",
        "10.244.1.0/24",
        "0.0.0.0/0",
        "fd00:98::/32",
        "fd00:1::/32",
    ];
    let range = select(ranges.to_vec()).prop_filter_map("a CIDR", parse_cidr);
    let access = (addresses(), addresses(), vec(range, 0..3), traffic_policy()).prop_map(
        |(ips, load_balancer_ips, source_ranges, traffic_policy)| ExternalAccess {
            ips: ips.into(),
            load_balancer_ips: load_balancer_ips.into(),
            source_ranges: source_ranges.into(),
            traffic_policy,
            health_check_node_port: None,
        },
    );
    option::weighted(0.5, access)
}
