//! Upgrades and downgrades between two ABI versions, under traffic.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use netns_tests::manifest::service_with;
use netns_tests::{
    Agent, Host, Node, OUTSIDE, Pod, Process, Server, Topology, Version, dataplane, eventually,
    eventually_equals, peer::HoldReport,
};
use sluice_abi::DropReason;

const VIP: &str = "10.96.3.4";
const PORTS: [&str; 2] = ["tcp:80->8080", "udp:53->5353"];
const SERVED: [&str; 2] = ["tcp:8080", "udp:5353"];

/// Two nodes, and clients that repeat requests on every kind of path.
struct Traffic {
    held: Vec<(&'static str, Process)>,
    near: Pod,
    far: Pod,
    client: Pod,
    packets: Host,
    _servers: [Server; 3],
}

fn vip(port: u16) -> String {
    format!("{VIP}:{port}")
}

/// A pod, by the CNI binary that the node's agent has installed.
fn pod(node: &Node, name: &str) -> Pod {
    let sandbox = node.sandbox(name);
    let result = node.installed_cni("ADD", &sandbox).ok();
    node.pod_of(&sandbox, result)
}

impl Traffic {
    /// Starts the clients; the agents of both nodes are ready.
    fn start(topology: &Topology, a: &Node, b: &Node) -> Traffic {
        let (near, far) = (pod(a, "default/web-0"), pod(b, "default/web-1"));
        let client = pod(a, "default/client");
        let packets = pod(a, "default/packets").without_socket_programs();
        let servers = [
            near.serve("web-0", &SERVED),
            far.serve("web-1", &SERVED),
            topology.outside.serve("outside", &["tcp:80", "udp:53"]),
        ];
        topology.apply("web", &service_with("web", VIP, &PORTS, &[&near, &far]));
        for host in [&*client, &packets] {
            eventually("the Service", || host.connect("tcp", &vip(80)));
        }
        let outside = |port: u16| format!("{OUTSIDE}:{port}");
        let held = vec![
            ("near pod", client.hold("tcp", &near.at(8080))),
            ("far pod", client.hold("tcp", &far.at(8080))),
            ("Service, socket programs", client.hold("tcp", &vip(80))),
            ("Service, tc programs", packets.hold("tcp", &vip(80))),
            ("Service, new connections, socket programs", client.hold("connect", &vip(80))),
            ("Service, new connections, tc programs", packets.hold("connect", &vip(80))),
            ("Service, UDP, socket programs", client.hold("udp", &vip(53))),
            ("Service, UDP, tc programs", packets.hold("udp-connected", &vip(53))),
            ("outside", client.hold("tcp", &outside(80))),
            ("outside, new connections", client.hold("connect", &outside(80))),
            ("outside, UDP", client.hold("udp", &outside(53))),
            ("node", a.hold("connect", &far.at(8080))),
            ("from the other node", far.hold("connect", &near.at(8080))),
        ];
        Traffic { held, near, far, client, packets, _servers: servers }
    }

    /// Ends the clients: nothing was lost. A lost SYN is sent again after a second.
    fn finish(self) {
        let mut failures = Vec::new();
        for (what, client) in self.held {
            let held: HoldReport = client.finish();
            println!("    {what}: {} responses, longest {} ms", held.responses, held.longest_ms);
            if !held.errors.is_empty() || held.longest_ms >= 900 {
                failures.push(format!("{what}: {held:?}"));
            }
        }
        assert_eq!(failures, [] as [String; 0]);
    }
}

/// Waits until a version's agent has taken over and only its pins are left.
fn wait_alone(node: &Node, agent: &mut Agent, version: Version) {
    agent.wait_ready();
    eventually_equals("pins", vec![version.pins()], || {
        node.namespaces.run(|| {
            let versions = fs::read_dir("/sys/fs/bpf/sluice").unwrap().flatten();
            let mut names: Vec<String> =
                versions.map(|entry| entry.file_name().into_string().unwrap()).collect();
            names.sort();
            names
        })
    });
}

/// Packets that the node dropped, by reason, without those of IPv6, which the stack of a new pod
/// sends.
fn drops(node: &Node) -> Vec<(DropReason, u64)> {
    let reasons = DropReason::ALL.iter().filter(|reason| **reason != DropReason::Unsupported);
    let counts = reasons.map(|reason| (*reason, dataplane::dropped(node, *reason)));
    counts.filter(|(_, count)| *count > 0).collect()
}

/// Adds and deletes pods by the installed CNI binary until `end`. Each pod has requests answered at
/// once. Returns the number of pods.
fn churn(node: &Node, far: &str, end: &AtomicBool) -> usize {
    let mut pods = 0;
    while !end.load(Ordering::Relaxed) {
        let sandbox = node.sandbox(&format!("default/short-{pods}"));
        let pod = node.pod_of(&sandbox, node.installed_cni("ADD", &sandbox).ok());
        let packets = pod.without_socket_programs();
        for (host, server) in [(&*pod, vip(80)), (&packets, vip(80)), (&*pod, far.to_owned())] {
            let response = host.connect("tcp", &server);
            assert!(response.is_ok(), "pod {pods} to {server}: {response:?}");
        }
        node.installed_cni("DEL", &sandbox).ok();
        pods += 1;
    }
    pods
}

#[test]
fn upgrades_and_downgrades_lose_nothing() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let mut agent = Some(a.agent());
    // Another version on the other node: a cluster that is upgraded by half.
    let mut other = b.agent_of(Version::Next);
    wait_alone(&b, &mut other, Version::Next);
    let traffic = Traffic::start(&topology, &a, &b);
    let end = AtomicBool::new(false);
    let far = traffic.far.at(8080);
    thread::scope(|scope| {
        let pods = scope.spawn(|| churn(&a, &far, &end));
        for version in [Version::Next, Version::This, Version::Next, Version::This] {
            agent.take().unwrap().kill();
            let mut next = a.agent_of(version);
            wait_alone(&a, &mut next, version);
            agent = Some(next);
        }
        end.store(true, Ordering::Relaxed);
        let pods = pods.join().unwrap();
        println!("    {pods} pods were added and deleted");
        assert!(pods > 3, "{pods}");
    });
    for (what, host) in [("socket programs", &*traffic.client), ("tc programs", &traffic.packets)] {
        assert!(host.connect("tcp", &vip(80)).is_ok(), "{what}");
    }
    assert!(traffic.near.connect("tcp", &traffic.far.at(8080)).is_ok());
    traffic.finish();
    assert_eq!(drops(&a), []);
    assert_eq!(dataplane::local_pods(&a), 3);
}

/// The last step of an agent's start.
const READY: &str = "ready: CNI ADD can succeed";

#[test]
fn agents_killed_during_a_migration_lose_nothing() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let agent = a.agent();
    let _other = b.agent();
    let traffic = Traffic::start(&topology, &a, &b);
    agent.kill();
    // Each agent is killed at this line of its log; the next one has another version, or the same. An
    // agent can go some steps further before it is killed: then the next one has nothing left to do,
    // and is killed when it is ready.
    for (version, line) in [
        (Version::Next, "programs loaded"),
        (Version::Next, "programs of this version have taken over"),
        (Version::This, "programs loaded"),
        (Version::This, "programs of this version have taken over"),
        (Version::Next, "taken over from another version"),
        (Version::Next, READY),
        (Version::This, "programs of this version have taken over"),
        (Version::Next, "taken over from another version"),
        (Version::This, "CNI binary installed"),
    ] {
        let agent = a.agent_of(version);
        println!("    {version:?} until {line:?}");
        agent.kill_at(&[line, READY]);
    }
    let mut agent = a.agent();
    wait_alone(&a, &mut agent, Version::This);
    assert!(traffic.near.connect("tcp", &traffic.far.at(8080)).is_ok());
    traffic.finish();
    assert_eq!(drops(&a), []);
}

#[test]
fn another_capacity_of_the_table_of_flows_keeps_the_flows() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let mut agent = a.agent();
    let _other = b.agent();
    let traffic = Traffic::start(&topology, &a, &b);
    for entries in [400_000, 2048] {
        agent.kill();
        agent = a.agent_not_ready(&[&format!("--flows={entries}")]);
        wait_alone(&a, &mut agent, Version::This);
        assert_eq!(dataplane::capacity(&a, sluice_abi::map::FLOWS), entries);
    }
    traffic.finish();
    assert_eq!(drops(&a), []);
}
