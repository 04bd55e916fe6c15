//! NetworkPolicies and frontends that translate: clients outside by NodePorts and load balancers, hostPorts, and a
//! pod that reaches itself by its Service.

use netns_tests::manifest::{namespace, pod_with_labels, service_with};
use netns_tests::{Host, Node, OUTSIDE, Pod, dataplane, ip};
use serde_json::json;
use sluice_abi::DropReason;

use crate::policies::deny_all;
use crate::reach::{Check, all_reach, reaches};
use crate::two_nodes;

/// Ports of every Service and of its pod.
const PORT: &str = "80";
const SERVED: [&str; 1] = ["tcp:8080"];

/// Pods with the label `app=server` receive from these peers only, a list in YAML.
fn from(peers: &str) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: peers, namespace: default}}
spec:
  podSelector: {{matchLabels: {{app: server}}}}
  ingress: [{{from: {peers}, ports: [{{port: 8080}}]}}]
"
    )
}

/// A block of one address.
fn block(address: impl std::fmt::Display) -> String {
    format!("{{ipBlock: {{cidr: {address}/32}}}}")
}

/// A load balancer with one pod. The number is in its addresses and its NodePort.
struct Balancer<'a> {
    number: u8,
    policy: &'a str,
    ranges: &'a str,
    backend: (&'a Pod, &'a Node),
}

impl Balancer<'_> {
    fn address(&self) -> String {
        format!("172.30.0.{}", 200 + self.number)
    }

    fn node_port(&self, node: &Node) -> String {
        format!("{}:{}", node.address, 30_080 + u16::from(self.number))
    }

    fn manifest(&self) -> String {
        let Balancer { number, policy, ranges, backend: (pod, node) } = self;
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: lb{number}, namespace: default, uid: uid-lb{number}}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: {policy}
  clusterIP: 10.96.7.{number}
  clusterIPs: [10.96.7.{number}]
  ipFamilies: [IPv4]
  loadBalancerSourceRanges: [{ranges}]
  ports: [{{name: t, protocol: TCP, port: {PORT}, targetPort: 8080, nodePort: {port}}}]
status: {{loadBalancer: {{ingress: [{{ip: {address}}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: lb{number}-a
  namespace: default
  labels: {{kubernetes.io/service-name: lb{number}}}
addressType: IPv4
ports: [{{name: t, protocol: TCP, port: 8080}}]
endpoints: [{{addresses: [{pod}], nodeName: {node}, conditions: {{ready: true}}}}]
",
            port = 30_080 + u16::from(*number),
            address = self.address(),
            pod = pod.address,
            node = node.name,
        )
    }
}

/// CONTRACT 8.10: the node of the pod judges the client if it receives the connection itself, whatever the traffic
/// policy; else the node that has masqueraded the client. CONTRACT 3.5: source ranges hold as well.
#[test]
fn clients_outside_are_judged_by_the_address_that_the_node_of_the_pod_receives() {
    let t = two_nodes();
    t.topology.apply("ns", &namespace("default", &[]));
    let pods = [t.a.pod("default/near"), t.b.pod("default/far")];
    let _servers = [pods[0].serve("near", &SERVED), pods[1].serve("far", &SERVED)];
    let (near, far) = ((&pods[0], &t.a), (&pods[1], &t.b));
    for (at, pod) in pods.iter().enumerate() {
        t.topology.apply(&format!("pod-{at}"), &pod_with_labels(pod, &[("app", "server")]));
    }
    let (in_range, elsewhere) = ("203.0.113.0/24", "198.51.100.0/24");
    let balancers = [
        ("Cluster", in_range, near),
        ("Local", in_range, near),
        ("Cluster", in_range, far),
        ("Local", in_range, far),
        ("Cluster", elsewhere, near),
    ];
    let mut number = 0;
    let balancers = balancers.map(|(policy, ranges, backend)| {
        number += 1;
        let balancer = Balancer { number, policy, ranges, backend };
        // Routes of the cloud: packets to it arrive at node 1.
        let to = balancer.address();
        ip(t.topology.router(), &format!("route add {to} via {}", t.a.address));
        t.topology.apply(&format!("lb{number}"), &balancer.manifest());
        balancer
    });
    let outside = &t.topology.outside;
    // Of each: the load balancer, the NodePort of node 1, that of node 2.
    let check = |expected: [[bool; 3]; 5]| {
        let targets = balancers.iter().map(|balancer| {
            let address = format!("{}:{PORT}", balancer.address());
            [address, balancer.node_port(&t.a), balancer.node_port(&t.b)]
        });
        let targets: Vec<(String, bool)> =
            targets.zip(expected).flat_map(|(to, expected)| to.into_iter().zip(expected)).collect();
        let checks: Vec<Check<'_>> =
            targets.iter().map(|(to, expected)| ("outside", outside, &**to, *expected)).collect();
        all_reach(&checks);
    };
    let (ranged, far_local) = ([false, true, true], [false, false, true]);
    check([[true; 3], [true, true, false], [true; 3], far_local, ranged]);

    t.topology.apply("policy", &from(&format!("[{}]", block(OUTSIDE))));
    let [received_near, sent_on] = [[true, true, false], [false, false, true]];
    check([received_near, received_near, sent_on, far_local, [false, true, false]]);

    // The blocks of the nodes admit what they have masqueraded, and no client that is known.
    t.topology.apply("policy", &from(&format!("[{}, {}]", block(t.a.address), block(t.b.address))));
    check([
        [false, false, true],
        [false; 3],
        [true, true, false],
        [false; 3],
        [false, false, true],
    ]);
    for node in [&t.a, &t.b] {
        assert!(dataplane::dropped(node, DropReason::PolicyIngress) > 0, "{}", node.name);
    }
}

/// CONTRACT 8.9, 8.10, 8.11: a hostPort is judged as its pod by the client, also of pods of another node and of
/// processes of the nodes; the node of a client judges the hostPort of another node as such.
#[test]
fn a_host_port_is_judged_by_the_policies_of_its_pod() {
    let t = two_nodes();
    t.topology.apply("ns", &namespace("default", &[]));
    let mappings = json!([{"hostPort": 9080, "containerPort": 8080}]);
    let server = t.a.pod_with_host_ports("default/server", mappings);
    let _process = server.serve("server", &SERVED);
    t.topology.apply("server", &pod_with_labels(&server, &[("app", "server")]));
    let client = |node: &Node, name: &str, role: &str| {
        let pod = node.pod(&format!("default/{name}"));
        t.topology.apply(name, &pod_with_labels(&pod, &[("role", role)]));
        pod
    };
    let (near, far) = (client(&t.a, "near", "web"), client(&t.b, "far", "web"));
    let (near_other, far_other) =
        (client(&t.a, "near-other", "batch"), client(&t.b, "far-other", "batch"));
    let to = format!("{}:9080", t.a.address);
    let check = |web: [bool; 2], others: [bool; 2], other_node: bool, host: bool| {
        let of_node_1 = |name: &'static str, pod: &Pod, expected: bool| {
            pod.both_paths().map(|(_, client)| (name, client, expected))
        };
        let pods =
            [of_node_1("near", &near, web[0]), of_node_1("near-other", &near_other, others[0])];
        let pods: Vec<(&str, Host, bool)> = pods.into_iter().flatten().collect();
        let others: [Check<'_>; 5] = [
            ("far", &far, &to, web[1]),
            ("far-other", &far_other, &to, others[1]),
            ("its node", &t.a, &to, true),
            ("the other node", &t.b, &to, other_node),
            ("outside", &t.topology.outside, &to, host),
        ];
        let pods = pods.iter().map(|(name, client, expected)| (*name, client, &*to, *expected));
        all_reach(&pods.chain(others).collect::<Vec<_>>());
    };
    check([true; 2], [true; 2], true, true);
    t.topology.apply("policy", &from("[{podSelector: {matchLabels: {role: web}}}]"));
    check([true; 2], [false; 2], false, false);
    t.topology.apply("policy", &from(&format!("[{}, {}]", block(OUTSIDE), block(t.b.address))));
    check([false; 2], [false; 2], true, true);

    // Egress: the pod behind a hostPort of the client's own node, the address of another node.
    t.topology.apply("policy", &from("[{podSelector: {matchLabels: {role: web}}}]"));
    t.topology.apply(
        "egress",
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: to-server, namespace: default}
spec:
  podSelector: {matchLabels: {role: web}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: server}}}]}]
",
    );
    check([true, false], [false; 2], false, false);
    reaches("far", &far, &server.at(8080), true);
}

/// CONTRACT 8.14: by packets, a pod that reaches itself by its Service is judged as a peer of itself; at the socket,
/// its packets do not leave the pod.
#[test]
fn a_pod_that_reaches_itself_by_its_service_is_judged_by_packets_only() {
    let t = two_nodes();
    t.topology.apply("ns", &namespace("default", &[]));
    let pod = t.a.pod("default/server");
    let _process = pod.serve("server", &SERVED);
    t.topology.apply("server", &pod_with_labels(&pod, &[("app", "server")]));
    let vip = "10.96.9.9";
    t.topology.apply("service", &service_with("server", vip, &["tcp:80->8080"], &[&pod]));
    let (service, direct) = (format!("{vip}:{PORT}"), pod.at(8080));
    let [(_, sockets), (_, packets)] = pod.both_paths();
    let check = |by_packets: bool| {
        all_reach(&[
            ("by packets", &packets, &service, by_packets),
            ("at the socket", &sockets, &service, true),
            ("its own address", &sockets, &direct, true),
            ("its own address", &packets, &direct, true),
        ]);
    };
    check(true);
    t.topology.apply("policy", &deny_all("default"));
    check(false);
    t.topology.apply(
        "itself",
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: itself, namespace: default}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {app: server}}}]}]
  egress: [{to: [{podSelector: {matchLabels: {app: server}}}]}]
",
    );
    check(true);
}
