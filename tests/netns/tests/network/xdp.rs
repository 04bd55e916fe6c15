//! XDP on the uplink of a node: packets to and from endpoints on other nodes.

use netns_tests::manifest::slice_of;
use netns_tests::{
    Agent, Node, Pod, Topology, agents, attach_foreign_xdp, command, dataplane, eventually, ip_json,
};
use sluice_abi::Outcome;
use sluice_bpf::attach::XdpMode;

const NODE_PORT: u16 = 30_080;
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, uid: uid-web}
spec:
  type: NodePort
  clusterIP: 10.96.7.7
  clusterIPs: [10.96.7.7]
  ipFamilies: [IPv4]
  ports:
  - {name: tcp-80, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30080}
";

/// Node `a` with an agent with these flags, and an endpoint of the NodePort on node `b`.
struct Cluster {
    a: Node,
    b: Node,
    far: Pod,
    _agents: [Agent; 2],
    topology: Topology,
}

/// `veth` devices deliver packets whose checksums are incomplete, which only the stack can complete:
/// the hosts of the test complete them themselves, as real hardware does.
fn complete_checksums(cluster: &Cluster) {
    for host in [cluster.topology.outside.namespaces(), cluster.far.namespaces()] {
        command(host, "ethtool", &["-K", "eth0", "tx", "off"]);
    }
}

fn cluster(flag: &str) -> Cluster {
    cluster_of(Topology::new(), flag, |_, _| {})
}

fn cluster_of(topology: Topology, flag: &str, prepare: impl FnOnce(&Topology, &Node)) -> Cluster {
    let (a, b) = (topology.node(1), topology.node(2));
    prepare(&topology, &a);
    let agents = agents([(&a, &[flag]), (&b, &[])]);
    let far = b.pod("default/far");
    let slice = slice_of("web-a", "web", &["tcp:80->8080"], &[far.address.to_string()]);
    topology.apply("web", &[SERVICE, &slice].join("---"));
    Cluster { a, b, far, _agents: agents, topology }
}

/// XDP of the node's uplink, by `sluice status`.
fn waits_for_xdp(node: &Node, text: &str) {
    eventually(&format!("XDP {text}"), || {
        let (_, status) = node.try_sluice(&["status"]);
        if status.contains(&format!("XDP {text}")) { Ok(()) } else { Err(status) }
    });
}

/// Mode of XDP in the kernel: 0, 1 (native), 2 (generic).
fn kernel_mode(node: &Node) -> u64 {
    ip_json(&node.namespaces, "link show dev eth0")[0]["xdp"]["mode"].as_u64().unwrap_or(0)
}

fn packets(node: &Node) -> (u64, u64) {
    let sent = |outcome| dataplane::outcome(node, outcome);
    (sent(Outcome::ToUplinkByXdp), sent(Outcome::ToUplink))
}

/// An external client moves data through the NodePort in both directions.
fn transfer(cluster: &Cluster) {
    const BYTES: usize = 2 << 20;
    let server = format!("{}:{NODE_PORT}", cluster.a.address);
    let outside = &cluster.topology.outside;
    eventually("the NodePort", || outside.connect("tcp", &server));
    assert_eq!(outside.upload(&server, BYTES), Ok(BYTES));
    assert_eq!(outside.download(&server, BYTES), Ok(BYTES));
}

#[track_caller]
fn leaves_by_xdp(cluster: &Cluster) {
    let _server = cluster.far.serve("far", &["tcp:8080"]);
    complete_checksums(cluster);
    let before = packets(&cluster.a);
    transfer(cluster);
    let after = packets(&cluster.a);
    let (by_xdp, by_tc) = (after.0 - before.0, after.1 - before.1);
    println!("{by_xdp} packets by XDP, {by_tc} by tc");
    assert!(by_xdp > 1000 && by_tc * 99 <= by_xdp, "{by_xdp} by XDP, {by_tc} by tc");
}

#[test]
fn packets_to_remote_endpoints_leave_by_generic_xdp() {
    let cluster = cluster("--xdp=generic");
    waits_for_xdp(&cluster.a, "generic");
    assert_eq!(kernel_mode(&cluster.a), 2);
    leaves_by_xdp(&cluster);
}

/// The driver of veth delivers what XDP sends only if the peer has an XDP program as well (Linux 6.18,
/// `veth_xdp_flush`). With GRO alone, the packets stay in the peer's queue.
#[test]
fn packets_to_remote_endpoints_leave_by_native_xdp() {
    let mut peer = None;
    let cluster = cluster_of(Topology::new(), "--xdp=native", |topology, _| {
        peer = Some(attach_foreign_xdp(topology.switch(), "node1", XdpMode::Native));
    });
    waits_for_xdp(&cluster.a, "native");
    assert_eq!(kernel_mode(&cluster.a), 1);
    leaves_by_xdp(&cluster);
}

#[test]
fn veth_has_no_xdp_by_default_and_packets_with_incomplete_checksums_arrive() {
    let cluster = cluster("--xdp=auto");
    waits_for_xdp(&cluster.a, "off (veth");
    waits_for_xdp(&cluster.b, "off (veth");
    assert_eq!(kernel_mode(&cluster.a), 0);
    let _server = cluster.far.serve("far", &["tcp:8080"]);
    transfer(&cluster);
    drop(cluster);
    let generic = self::cluster("--xdp=generic");
    let _server = generic.far.serve("far", &["tcp:8080"]);
    transfer(&generic);
}

#[test]
fn xdp_is_repaired_and_detached_when_switched_off() {
    let topology = Topology::new();
    let node = topology.node(1);
    let agent = node.agent_with(&["--xdp=generic"]);
    waits_for_xdp(&node, "generic");
    netns_tests::ip(&node.namespaces, "link set dev eth0 xdpgeneric off");
    let start = std::time::Instant::now();
    eventually("the program is attached again", || match kernel_mode(&node) {
        2 => Ok(()),
        mode => Err(format!("mode {mode}")),
    });
    let took = start.elapsed();
    assert!(took < std::time::Duration::from_millis(1500), "repaired in {took:?}");
    agent.kill();
    assert_eq!(kernel_mode(&node), 2, "packets leave by XDP without an agent");
    let _agent = node.agent_with(&["--xdp=off"]);
    waits_for_xdp(&node, "off (--xdp=off)");
    assert_eq!(kernel_mode(&node), 0);
}

#[test]
fn xdp_program_of_other_software_is_left_alone() {
    let mut foreign = None;
    let cluster = cluster_of(Topology::new(), "--xdp=generic", |_, node| {
        foreign = Some(attach_foreign_xdp(&node.namespaces, "eth0", XdpMode::Generic));
    });
    waits_for_xdp(&cluster.a, "off (the device has the XDP program");
    let _server = cluster.far.serve("far", &["tcp:8080"]);
    transfer(&cluster);
    assert_eq!(packets(&cluster.a).0, 0);
    drop(foreign);
    waits_for_xdp(&cluster.a, "generic");
}
