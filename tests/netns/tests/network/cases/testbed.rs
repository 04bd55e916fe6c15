//! The hosts, servers and Services that the case tables name.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use netns_tests::manifest::{service, slice_of};
use netns_tests::{
    Host, Node, OUTSIDE, Pod, Server, Topology, TopologyOptions, eventually, sysctl,
};
use serde_json::json;

use crate::{TwoNodes, two_nodes_in};

/// Port of every server.
const PORT: u16 = 8080;
/// Port of every Service.
const SERVICE_PORT: u16 = 80;
/// hostPort of pod1.
const HOST_PORT: u16 = 9080;
/// ClusterIP of a Service without endpoints.
const NO_ENDPOINTS: Ipv4Addr = Ipv4Addr::new(10, 96, 1, 100);
/// An address of the Service range that no Service has.
const FREE_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 200, 200);

/// ```text
/// node1: pod1 (hostPort 9080), pod2    node2: pod3, pod4    outside
/// ```
/// Every host serves TCP and UDP port 8080 under its own name, and every host is the only
/// endpoint of a Service.
pub struct Testbed {
    addresses: BTreeMap<String, Ipv4Addr>,
    services: BTreeMap<String, Ipv4Addr>,
    clients: BTreeMap<String, Host>,
}

/// What has to run while the testbed is used.
pub struct Running {
    _servers: Vec<Server>,
    _pods: Vec<Pod>,
    _nodes: TwoNodes,
}

impl Testbed {
    pub fn new() -> (Testbed, Running) {
        let options = TopologyOptions { cluster_routes: true, ..TopologyOptions::default() };
        let nodes = two_nodes_in(Topology::with(options));
        let pods = vec![
            pod_with_host_port(&nodes.a, "default/pod1"),
            nodes.a.pod("default/pod2"),
            nodes.b.pod("default/pod3"),
            nodes.b.pod("default/pod4"),
        ];
        let mut hosts: Vec<(String, Ipv4Addr, Host)> = vec![
            ("node1".into(), nodes.a.address, (*nodes.a).clone()),
            ("node2".into(), nodes.b.address, (*nodes.b).clone()),
            ("outside".into(), OUTSIDE, nodes.topology.outside.clone()),
        ];
        for (number, pod) in pods.iter().enumerate() {
            hosts.push((format!("pod{}", number + 1), pod.address, (**pod).clone()));
        }

        let ports = [format!("tcp:{PORT}"), format!("udp:{PORT}")];
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        let service_ports = ["tcp", "udp"].map(|p| format!("{p}:{SERVICE_PORT}->{PORT}"));
        let service_ports: Vec<&str> = service_ports.iter().map(String::as_str).collect();
        let mut services = BTreeMap::from([("none".to_owned(), NO_ENDPOINTS)]);
        for (number, (name, ..)) in (1..).zip(&hosts) {
            services.insert(name.clone(), Ipv4Addr::new(10, 96, 1, number));
        }
        let addresses: BTreeMap<String, Ipv4Addr> =
            hosts.iter().map(|(name, address, _)| (name.clone(), *address)).collect();
        for (name, cluster_ip) in &services {
            let endpoints: Vec<String> =
                addresses.get(name).map(ToString::to_string).into_iter().collect();
            let yaml = [
                service(name, &cluster_ip.to_string(), &service_ports),
                slice_of(&format!("{name}-a"), name, &service_ports, &endpoints),
            ];
            nodes.topology.apply(&format!("service-{name}"), &yaml.join("---"));
        }
        // The kernel limits the rate of ICMP errors to one peer.
        for (_, _, host) in &hosts {
            sysctl(host.namespaces(), "net/ipv4/icmp_ratelimit", "0");
        }
        let servers = hosts.iter().map(|(name, _, host)| host.serve(name, &ports)).collect();
        let testbed = Testbed {
            addresses,
            services,
            clients: hosts.into_iter().map(|(name, _, host)| (name, host)).collect(),
        };
        testbed.wait_for_services();
        (testbed, Running { _servers: servers, _pods: pods, _nodes: nodes })
    }

    /// Both agents have written the Service that sorts last.
    fn wait_for_services(&self) {
        for client in ["pod1", "pod3"] {
            for target in self.addresses.keys() {
                let address = self.target("service", target);
                let client = self.client(client).without_socket_programs();
                eventually(target, || client.connect("tcp", &address));
            }
        }
    }

    pub fn client(&self, name: &str) -> &Host {
        self.clients.get(name).unwrap_or_else(|| panic!("client {name}"))
    }

    /// The address of a target by a path.
    pub fn target(&self, path: &str, target: &str) -> String {
        let host = || self.addresses.get(target).unwrap_or_else(|| panic!("target {target}"));
        let service = || self.services.get(target).unwrap_or_else(|| panic!("service {target}"));
        match path {
            "direct" => format!("{}:{PORT}", host()),
            // No server listens on this port.
            "closed-port" => format!("{}:{}", host(), PORT + 1),
            "service" => format!("{}:{SERVICE_PORT}", service()),
            // The Service does not have this port; its endpoint has the second one.
            "unknown-service-port" => format!("{}:{}", service(), SERVICE_PORT + 1),
            "target-port-of-service" => format!("{}:{PORT}", service()),
            "hostport" => format!("{}:{HOST_PORT}", host()),
            "free-address" => match target {
                "node1" => "10.244.1.200:80".to_owned(),
                "node2" => "10.244.2.200:80".to_owned(),
                "service" => format!("{FREE_SERVICE}:80"),
                other => panic!("free address of {other}"),
            },
            other => panic!("path {other}"),
        }
    }

    /// The name of the host with an address; the client's own if it is one of several.
    pub fn name_of(&self, address: IpAddr, client: &str) -> String {
        if self.addresses.get(client).is_some_and(|own| IpAddr::V4(*own) == address) {
            return client.to_owned();
        }
        let named = self.addresses.iter().find(|(_, known)| IpAddr::V4(**known) == address);
        named.map_or_else(|| address.to_string(), |(name, _)| name.clone())
    }
}

/// A pod with hostPorts.
fn pod_with_host_port(node: &Node, name: &str) -> Pod {
    let mapping =
        |protocol| json!({"hostPort": HOST_PORT, "containerPort": PORT, "protocol": protocol});
    node.pod_with_host_ports(name, json!([mapping("tcp"), mapping("udp")]))
}
