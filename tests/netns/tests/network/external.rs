//! NodePorts, load balancer addresses and external IPs: which endpoints a client reaches, and which
//! address they observe.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;

use netns_tests::{Host, OUTSIDE, Pod, command, dataplane, eventually, ip};
use sluice_abi::{Outcome, PodNetns, map};

use crate::{TwoNodes, two_nodes, two_nodes_with_cluster_routes, two_nodes_with_xdp};

/// ClusterIP, load balancer address and external IP of the Service. No host has the last two.
const VIP: &str = "10.96.7.7";
const LB: &str = "172.30.0.200";
const EXTERNAL_IP: &str = "172.30.0.201";
const NODE_PORT: u16 = 30_080;
/// Ports that the pods serve.
const SERVED: [&str; 2] = ["tcp:8080", "udp:8080"];
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "udp-connected"];

/// The Service with pods on these nodes, as its only manifest.
fn manifest(policy: &str, extra: &str, backends: &[(&Pod, &str)]) -> String {
    let mut yaml = format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default, uid: uid-web}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: {policy}
  clusterIP: {VIP}
  clusterIPs: [{VIP}]
  externalIPs: [{EXTERNAL_IP}]
  ipFamilies: [IPv4]
  ports:
  - {{name: t, protocol: TCP, port: 80, targetPort: 8080, nodePort: {NODE_PORT}}}
  - {{name: u, protocol: UDP, port: 80, targetPort: 8080, nodePort: {NODE_PORT}}}
{extra}
status: {{loadBalancer: {{ingress: [{{ip: {LB}}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-a
  namespace: default
  labels: {{kubernetes.io/service-name: web}}
addressType: IPv4
ports:
- {{name: t, protocol: TCP, port: 8080}}
- {{name: u, protocol: UDP, port: 8080}}
endpoints:
"
    );
    for (pod, node) in backends {
        let address = pod.address;
        writeln!(
            yaml,
            "- {{addresses: [{address}], nodeName: {node}, conditions: {{ready: true}}}}"
        )
        .unwrap();
    }
    yaml
}

/// Routes of the cloud: packets to the addresses of the Service arrive at node 1.
fn route_to_node_1(t: &TwoNodes) {
    for address in [LB, EXTERNAL_IP] {
        ip(t.topology.router(), &format!("route add {address} via {}", t.a.address));
    }
}

/// Sends requests until every server has answered, and checks what they observe.
fn reaches(what: &str, client: &Host, to: &str, servers: &[&str], source: impl Into<IpAddr>) {
    let source = source.into();
    for protocol in PROTOCOLS {
        let mut missing: BTreeSet<&str> = servers.iter().copied().collect();
        eventually(&format!("{what}, {protocol} {to}: {servers:?}"), || {
            let (response, peer) = client.connect(protocol, to)?;
            assert_eq!(peer.to_string(), to, "{what}, {protocol}: peer");
            assert_eq!(response.client.ip(), source, "{what}, {protocol} {to}: source");
            assert!(servers.contains(&&*response.server), "{what}, {protocol}: {response:?}");
            missing.remove(&*response.server);
            if missing.is_empty() { Ok(()) } else { Err(format!("missing {missing:?}")) }
        });
    }
}

/// No response, and no refusal, as for a dropped packet.
fn is_dropped(what: &str, client: &Host, to: &str) {
    let result = client.connect_with("tcp", to, &["--deadline-ms", "700"]).remove(0);
    assert_eq!(result.err().as_deref(), Some("TimedOut"), "{what}: {to}");
}

/// A frontend of node 1 for its own clients: a pod, by both paths, and a process.
fn reaches_from_node_1(t: &TwoNodes, near: &Pod, policy: &str, to: &str, servers: &[&str]) {
    for (path, client) in near.both_paths() {
        reaches(&format!("pod of node 1, {path}, {policy}"), &client, to, servers, near.address);
    }
    reaches(&format!("node 1, {policy}"), &t.a, to, servers, t.a.address);
}

#[test]
fn contract_3_1_each_kind_of_client_reaches_the_endpoints_of_its_policy_and_is_seen_with_its_address()
 {
    let t = two_nodes();
    let pods = Pods::start(&t);
    clients_of_each_policy(&t, &pods);
}

/// The same where node 1 forwards packets between the host outside and endpoints of node 2 by XDP.
#[test]
fn contract_3_1_clients_reach_the_same_endpoints_by_xdp() {
    let t = two_nodes_with_xdp();
    let pods = Pods::start(&t);
    // XDP leaves packets with incomplete checksums, as `veth` delivers them, to tc.
    let (outside, [_, web]) = (t.topology.outside.namespaces(), &pods.backends);
    for host in [outside, web.namespaces(), pods.far.namespaces(), &t.b.namespaces] {
        command(host, "ethtool", &["-K", "eth0", "tx", "off"]);
    }
    clients_of_each_policy(&t, &pods);
    let by_xdp = dataplane::outcome(&t.a, Outcome::ToUplinkByXdp);
    assert!(by_xdp > 10, "{by_xdp} packets left by XDP");
}

/// An endpoint and a client on each node.
struct Pods {
    backends: [Pod; 2],
    near: Pod,
    far: Pod,
}

impl Pods {
    fn start(t: &TwoNodes) -> Pods {
        let backends = [t.a.pod("default/web-0"), t.b.pod("default/web-1")];
        Pods { backends, near: t.a.pod("default/near"), far: t.b.pod("default/far") }
    }
}

/// The client-address table, for both external traffic policies.
fn clients_of_each_policy(t: &TwoNodes, Pods { backends, near, far }: &Pods) {
    route_to_node_1(t);
    let _servers = [backends[0].serve("web-0", &SERVED), backends[1].serve("web-1", &SERVED)];
    let on_both = [(&backends[0], &*t.a.name), (&backends[1], &*t.b.name)];
    let all = ["web-0", "web-1"];
    let (a, b) = (t.a.address, t.b.address);
    let node_port = format!("{a}:{NODE_PORT}");
    let outside = &t.topology.outside;

    t.topology.apply("web", &manifest("Cluster", "", &on_both));
    for to in [node_port.clone(), format!("{LB}:80"), format!("{EXTERNAL_IP}:80")] {
        reaches("outside, Cluster", outside, &to, &all, a);
        reaches_from_node_1(t, near, "Cluster", &to, &all);
    }
    reaches("node 2, Cluster", &t.b, &node_port, &all, a);
    let far_address = far.address;
    reaches("pod of node 2, Cluster", far, &node_port, &all, a);
    reaches("node 1, loopback", &t.a, &format!("127.0.0.1:{NODE_PORT}"), &all, a);

    t.topology.apply("web", &manifest("Local", "", &on_both));
    for to in [node_port.clone(), format!("{LB}:80"), format!("{EXTERNAL_IP}:80")] {
        // The change has arrived when the client is seen.
        eventually("policy Local", || {
            let (response, _) = outside.connect("tcp", &to)?;
            if response.client.ip() == IpAddr::from(OUTSIDE) { Ok(()) } else { Err("old".into()) }
        });
        reaches("outside, Local", outside, &to, &["web-0"], OUTSIDE);
        // The policy does not apply to clients on the node.
        reaches_from_node_1(t, near, "Local", &to, &all);
    }
    reaches("pod of node 2, Local", far, &node_port, &["web-0"], far_address);
    reaches("node 2, Local", &t.b, &node_port, &["web-0"], b);

    // Without an endpoint on node 1.
    t.topology.apply("web", &manifest("Local", "", &on_both[1..]));
    eventually("dropped", || {
        match outside.connect_with("tcp", &node_port, &["--deadline-ms", "700"]).remove(0) {
            Err(error) if error == "TimedOut" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    is_dropped("pod of node 2", far, &node_port);
    reaches("pod of node 1, Local", near, &node_port, &["web-1"], near.address);
    reaches("node 1, Local", &t.a, &node_port, &["web-1"], a);

    // Without any endpoint: refused at once.
    t.topology.apply("web", &manifest("Local", "", &[]));
    for (what, client) in [("outside", outside), ("pod of node 1", &**near), ("node 1", &*t.a)] {
        eventually(&format!("{what}: refused"), || match client.connect("tcp", &node_port) {
            Err(error) if error == "ConnectionRefused" => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

/// The client-address table of ClusterIPs, for both internal traffic policies. They do not depend on the
/// external one, which is the opposite here.
#[test]
fn contract_3_each_kind_of_client_reaches_the_endpoints_of_the_internal_traffic_policy() {
    // Packets of the host outside to a ClusterIP arrive at node 1.
    let t = two_nodes_with_cluster_routes();
    let backends = [t.a.pod("default/web-0"), t.b.pod("default/web-1")];
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let _servers = [backends[0].serve("web-0", &SERVED), backends[1].serve("web-1", &SERVED)];
    let on_both = [(&backends[0], &*t.a.name), (&backends[1], &*t.b.name)];
    let all = ["web-0", "web-1"];
    let (a, b) = (t.a.address, t.b.address);
    let (vip, node_port) = (format!("{VIP}:80"), format!("{a}:{NODE_PORT}"));
    let outside = &t.topology.outside;

    let internal = |policy: &str| format!("  internalTrafficPolicy: {policy}");
    t.topology.apply("web", &manifest("Local", &internal("Cluster"), &on_both));
    reaches("outside, Cluster", outside, &vip, &all, a);
    reaches_from_node_1(&t, &near, "Cluster", &vip, &all);
    reaches("pod of node 2, Cluster", &far, &vip, &all, far.address);
    reaches("node 2, Cluster", &t.b, &vip, &all, b);

    t.topology.apply("web", &manifest("Cluster", &internal("Local"), &on_both));
    for node in [&t.a, &t.b] {
        // The change has arrived when the external policy of the same change is in force.
        let to = format!("{}:{NODE_PORT}", node.address);
        eventually("policies", || {
            let (response, _) = outside.connect("tcp", &to)?;
            let is_new = response.client.ip() == IpAddr::from(node.address);
            if is_new { Ok(()) } else { Err("old".into()) }
        });
    }
    reaches("outside, Local", outside, &vip, &["web-0"], a);
    reaches_from_node_1(&t, &near, "Local", &vip, &["web-0"]);
    reaches("pod of node 2, Local", &far, &vip, &["web-1"], far.address);
    reaches("node 2, Local", &t.b, &vip, &["web-1"], b);

    // Without an endpoint on node 1: dropped there, and the NodePort works.
    t.topology.apply("web", &manifest("Cluster", &internal("Local"), &on_both[1..]));
    eventually("dropped", || {
        match near.connect_with("tcp", &vip, &["--deadline-ms", "700"]).remove(0) {
            Err(error) if error == "TimedOut" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    for (path, client) in near.both_paths() {
        is_dropped(&format!("pod of node 1, {path}"), &client, &vip);
    }
    is_dropped("node 1", &t.a, &vip);
    is_dropped("outside", outside, &vip);
    reaches("pod of node 2, Local", &far, &vip, &["web-1"], far.address);
    reaches("outside, NodePort", outside, &node_port, &["web-1"], a);
}

/// Sockets that the socket programs translate, and packets of others.
#[test]
fn a_client_with_session_affinity_keeps_its_endpoint_over_all_frontends_and_paths() {
    let t = two_nodes();
    route_to_node_1(&t);
    let backends = [t.a.pod("default/web-0"), t.b.pod("default/web-1")];
    let near = t.a.pod("default/near");
    let _servers = [backends[0].serve("web-0", &SERVED), backends[1].serve("web-1", &SERVED)];
    let on_both = [(&backends[0], &*t.a.name), (&backends[1], &*t.b.name)];
    t.topology.apply("web", &manifest("Cluster", "  sessionAffinity: ClientIP", &on_both));

    let [on, off] = near.both_paths().map(|(_, client)| client);
    let cookies = dataplane::entries::<u64, PodNetns>(&t.a, map::POD_NETNS);
    let of_pod = |(_, pod): &&(u64, PodNetns)| pod.addrs[0] == near.address.into();
    assert_eq!(cookies.iter().filter(of_pod).count(), 1, "{cookies:?}");
    let clients = [("pod, socket", &on), ("pod, packet", &off), ("node", &*t.a)];
    let node_port = format!("{}:{NODE_PORT}", t.a.address);
    let mut servers: BTreeSet<(&str, String)> = BTreeSet::new();
    for (what, client) in clients {
        for to in [format!("{VIP}:80"), node_port.clone()] {
            eventually(&format!("{what}, {to}"), || client.connect("tcp", &to).map(|_| ()));
            for exchange in client.connect_times("tcp", &to, 20) {
                let (response, _) = exchange.unwrap_or_else(|e| panic!("{what}, {to}: {e}"));
                servers.insert((what.split(',').next().unwrap_or(what), response.server));
            }
        }
    }
    assert_eq!(servers.len(), 2, "one server of the pod and one of the node: {servers:?}");
}
