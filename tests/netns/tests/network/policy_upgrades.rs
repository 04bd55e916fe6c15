//! Policies in force while the agent restarts, is upgraded and is downgraded: what they allow loses nothing,
//! and nothing passes that they deny.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use netns_tests::capture::Capture;
use netns_tests::manifest::{namespace, service_with};
use netns_tests::peer::{HoldReport, SprayReport};
use netns_tests::{
    Host, Node, OUTSIDE, Pod, Process, Server, Topology, TopologyOptions, Version, agents,
    dataplane, eventually,
};
use sluice_abi::DropReason;

use crate::policies::{FROM_WEB, deny_all};
use crate::reach::{all_reach, reaches};
use crate::traffic::{apply_pods, drops, pod, wait_alone};

const VIP: &str = "10.96.9.9";
const PORTS: [&str; 1] = ["tcp:80->8080"];
/// UDP port of what is denied.
const SPRAY: u16 = 7777;
/// Least number of attempts of each kind over each change.
const ATTEMPTS: u64 = 125;

/// `client` sends to the host outside only, on the ports that it serves.
const CLIENT: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client, namespace: default}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress:
  - to: [{ipBlock: {cidr: 203.0.113.0/24}}]
    ports: [{port: 80}, {protocol: UDP, port: 53}]
";

/// Pods with their policies. What is denied is sent all the time.
struct Shop {
    topology: Topology,
    server: Pod,
    near: Pod,
    packets: Pod,
    far: Pod,
    client: Pod,
    near_denied: Pod,
    far_denied: Pod,
    closed: Pod,
    /// A pod that no policy selects.
    open: Pod,
    _servers: [Server; 3],
}

/// A receiver of what is denied, and the addresses from which it may come.
struct Target<'a> {
    what: &'static str,
    host: &'a Host,
    sources: Vec<Ipv4Addr>,
}

impl Shop {
    fn new(topology: Topology, a: &Node, b: &Node) -> Shop {
        topology.apply("ns", &namespace("default", &[]));
        topology.apply("ns-closed", &namespace("closed", &[]));
        let [server, near, packets, client, near_denied] =
            ["server", "near", "packets", "client", "near-denied"]
                .map(|name| pod(a, &format!("default/{name}")));
        let closed = pod(a, "closed/pod");
        let [far, far_denied, open] =
            ["far", "far-denied", "open"].map(|name| pod(b, &format!("default/{name}")));
        let servers = [
            server.serve("server", &["tcp:8080"]),
            open.serve("open", &["tcp:8080"]),
            topology.outside.serve("outside", &["tcp:80", "udp:53"]),
        ];
        apply_pods(
            &topology,
            &[
                ("server", &server, "app", "server"),
                ("near", &near, "role", "web"),
                ("packets", &packets, "role", "web"),
                ("far", &far, "role", "web"),
                ("client", &client, "app", "client"),
                ("near-denied", &near_denied, "role", "batch"),
                ("far-denied", &far_denied, "role", "batch"),
                ("open", &open, "role", "none"),
                ("closed", &closed, "role", "web"),
            ],
        );
        topology.apply("service", &service_with("server", VIP, &PORTS, &[&server]));
        for host in [&near, &far] {
            reaches("web", host, &format!("{VIP}:80"), true);
        }
        Shop {
            topology,
            server,
            near,
            packets,
            far,
            client,
            near_denied,
            far_denied,
            closed,
            open,
            _servers: servers,
        }
    }

    /// Starts what the policies will deny.
    fn spray(&self) -> Vec<(&'static str, Process)> {
        let (outside, server) = (&self.topology.outside, &self.server);
        let spray = |host: &Host, port: u16, to: Ipv4Addr, tcp: u16| {
            host.spray(port, &format!("{to}:{SPRAY}"), &format!("{to}:{tcp}"))
        };
        vec![
            ("near pod to server", spray(&self.near_denied, 7001, server.address, 8080)),
            ("far pod to server", spray(&self.far_denied, 7001, server.address, 8080)),
            ("outside to server", spray(outside, 7001, server.address, 8080)),
            ("outside to closed pod", spray(outside, 7002, self.closed.address, SPRAY)),
            ("closed pod to outside", spray(&self.closed, 7001, OUTSIDE, SPRAY)),
            ("closed pod to open pod", spray(&self.closed, 7002, self.open.address, 8080)),
        ]
    }

    fn targets(&self, a: &Node) -> [Target<'_>; 4] {
        let denied = [self.near_denied.address, self.far_denied.address, OUTSIDE];
        let outside = &self.topology.outside;
        [
            Target { what: "server", host: &self.server, sources: denied.to_vec() },
            Target { what: "closed", host: &self.closed, sources: vec![OUTSIDE] },
            Target { what: "open", host: &self.open, sources: vec![self.closed.address] },
            Target { what: "outside", host: outside, sources: vec![a.address] },
        ]
    }

    /// Starts what the policies allow.
    fn allowed(&self, a: &Node) -> Vec<(&'static str, Process)> {
        let (direct, service) = (self.server.at(8080), format!("{VIP}:80"));
        let outside = |port: u16| format!("{OUTSIDE}:{port}");
        let packets = self.packets.without_socket_programs();
        vec![
            ("near pod", self.near.hold("tcp", &direct)),
            ("near pod, new connections", self.near.hold("connect", &direct)),
            ("Service, tc programs", packets.hold("tcp", &service)),
            ("Service, tc programs, new connections", packets.hold("connect", &service)),
            ("far pod, Service", self.far.hold("tcp", &service)),
            ("far pod, new connections", self.far.hold("connect", &direct)),
            ("node, new connections", a.hold("connect", &direct)),
            ("outside", self.client.hold("tcp", &outside(80))),
            ("outside, new connections", self.client.hold("connect", &outside(80))),
            ("outside, UDP", self.client.hold("udp", &outside(53))),
        ]
    }

    /// Applies the policies and waits until they act.
    fn isolate(&self) {
        self.topology.apply("policy", FROM_WEB);
        self.topology.apply("policy-client", CLIENT);
        self.topology.apply("policy-closed", &deny_all("closed"));
        all_reach(&[
            ("near pod", &self.near_denied, &self.server.at(8080), false),
            ("closed pod", &self.closed, &self.open.at(8080), false),
            ("client", &self.client, &self.open.at(8080), false),
        ]);
    }
}

/// Waits until each target has received from each of its sources.
#[track_caller]
fn all_arrive(targets: &[Target<'_>]) {
    for target in targets {
        let mut receiver = target.host.receive(SPRAY);
        let mut missing: BTreeSet<Ipv4Addr> = target.sources.iter().copied().collect();
        eventually(&format!("datagrams to {}", target.what), || {
            missing.remove(&receiver.line().parse().unwrap());
            if missing.is_empty() { Ok(()) } else { Err(format!("none from {missing:?}")) }
        });
    }
}

/// Packets from the sources of a target, with the port of the sprays if a source also sends what is allowed;
/// and the number of all.
fn arrived(target: &Target<'_>, capture: Capture) -> (usize, usize) {
    let packets = capture.finish();
    let is_denied = |packet: &&Vec<u8>| {
        let source = Ipv4Addr::from(<[u8; 4]>::try_from(&packet[12..16]).unwrap());
        let header = usize::from(packet[0] & 15) * 4;
        let port = packet.get(header + 2..header + 4);
        target.sources.contains(&source)
            && (target.what != "outside" || port == Some(&SPRAY.to_be_bytes()))
    };
    (packets.iter().filter(is_denied).count(), packets.len())
}

#[test]
fn policies_hold_over_restarts_upgrades_and_downgrades() {
    // The routes lead the host outside to pods.
    let routes = TopologyOptions { cluster_routes: true, ..TopologyOptions::default() };
    let topology = Topology::with(routes);
    let (a, b) = (topology.node(1), topology.node(2));
    let [agent, _other] = agents([(&a, &[]), (&b, &[])]);
    let mut agent = Some(agent);
    let shop = Shop::new(topology, &a, &b);
    let mut sprays = shop.spray();
    let targets = shop.targets(&a);
    // Established flows, when the policies come. Their ends repeat what is not acknowledged.
    all_arrive(&targets);
    let ended = [&shop.near_denied, &shop.far_denied]
        .map(|client| client.hold("tcp", &shop.server.at(8080)));
    shop.isolate();
    let captures = targets.each_ref().map(|target| {
        let file = shop.topology.capture_file(target.what);
        target.host.capture("eth0", &file)
    });
    let allowed = shop.allowed(&a);
    let mut late = Vec::new();
    for version in [Version::This, Version::Next, Version::Next, Version::This] {
        for (_, spray) in &mut sprays {
            spray.write_line(&ATTEMPTS.to_string());
        }
        agent.take().unwrap().kill();
        // A pod that begins now is closed too.
        let sandbox = a.sandbox(&format!("closed/late-{}", late.len()));
        let early = Host::of(&sandbox.namespaces);
        late.push(early.spray(SPRAY, &format!("{OUTSIDE}:{SPRAY}"), &format!("{OUTSIDE}:{SPRAY}")));
        a.installed_cni("ADD", &sandbox).ok();
        let mut next = a.agent_of(version);
        wait_alone(&a, &mut next, version);
        agent = Some(next);
        for (what, spray) in &mut sprays {
            assert_eq!(spray.line(), "sprayed", "{what}");
        }
    }
    let mut failures = Vec::new();
    for (what, client) in allowed {
        let held: HoldReport = client.finish();
        println!("    {what}: {} responses, longest {} ms", held.responses, held.longest_ms);
        if !held.errors.is_empty() || held.longest_ms >= 900 {
            failures.push(format!("{what}: {held:?}"));
        }
    }
    for connection in ended {
        let report: HoldReport = connection.finish();
        assert_eq!(report.errors.len(), 1, "{report:?}");
    }
    for spray in late {
        let report: SprayReport = spray.finish();
        assert!(report.least() > 0, "{report:?}");
    }
    for (target, capture) in targets.iter().zip(captures) {
        let (denied, all) = arrived(target, capture);
        println!("    {}: {denied} denied packets of {all}", target.what);
        if denied > 0 || (target.what != "closed" && target.what != "open" && all == 0) {
            failures.push(format!("{}: {denied} denied packets of {all}", target.what));
        }
    }
    // They were sent all the time: without the policies they arrive.
    for name in ["policy", "policy-client", "policy-closed"] {
        shop.topology.delete(name);
    }
    all_arrive(&targets);
    for (what, spray) in sprays {
        let report: SprayReport = spray.finish();
        println!("    {what}: {report:?}");
    }
    assert_eq!(failures, [] as [String; 0]);
    // A pod that the former CNI binary connects while the programs change over can send before its row is
    // written: see `upgrades_and_downgrades_lose_nothing`.
    let expected = [
        DropReason::PolicyEgress,
        DropReason::PolicyIngress,
        DropReason::PolicyPending,
        DropReason::NoSuchPod,
        DropReason::Spoofed,
    ];
    let others: Vec<_> = drops(&a).into_iter().filter(|(r, _)| !expected.contains(r)).collect();
    assert_eq!(others, []);
    assert!(dataplane::dropped(&a, DropReason::PolicyIngress) > 0);
}
