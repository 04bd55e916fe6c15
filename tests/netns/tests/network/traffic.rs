//! Clients that repeat requests on every kind of path while maps or programs are replaced.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use netns_tests::manifest::service_with;
use netns_tests::{
    Agent, Host, Node, OUTSIDE, Pod, Process, Server, Topology, Version, dataplane, eventually,
    eventually_equals, peer::HoldReport,
};
use sluice_abi::DropReason;

pub const VIP: &str = "10.96.3.4";
pub const PORTS: [&str; 2] = ["tcp:80->8080", "udp:53->5353"];
const SERVED: [&str; 2] = ["tcp:8080", "udp:5353"];

/// Two nodes, and clients that repeat requests on every kind of path.
pub struct Traffic {
    held: Vec<(&'static str, Process)>,
    pub near: Pod,
    pub far: Pod,
    pub client: Pod,
    pub packets: Host,
    _servers: [Server; 3],
}

pub fn vip(port: u16) -> String {
    format!("{VIP}:{port}")
}

/// A pod, by the CNI binary that the node's agent has installed.
pub fn pod(node: &Node, name: &str) -> Pod {
    let sandbox = node.sandbox(name);
    let result = node.installed_cni("ADD", &sandbox).ok();
    node.pod_of(&sandbox, result)
}

impl Traffic {
    /// Starts the clients; the agents of both nodes are ready.
    pub fn start(topology: &Topology, a: &Node, b: &Node) -> Traffic {
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
    pub fn finish(self) {
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
pub fn wait_alone(node: &Node, agent: &mut Agent, version: Version) {
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
pub fn drops(node: &Node) -> Vec<(DropReason, u64)> {
    let reasons = DropReason::ALL.iter().filter(|reason| **reason != DropReason::Unsupported);
    let counts = reasons.map(|reason| (*reason, dataplane::dropped(node, *reason)));
    counts.filter(|(_, count)| *count > 0).collect()
}

/// Adds and deletes pods by the installed CNI binary until `end`. Each pod has requests answered at
/// once. Returns the number of pods.
pub fn churn(node: &Node, far: &str, end: &AtomicBool) -> usize {
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
