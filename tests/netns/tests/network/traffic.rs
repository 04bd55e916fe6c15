//! Clients that repeat requests on every kind of path while maps or programs are replaced.

use std::fs;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use netns_tests::manifest::{pod_with_labels, service_with};
use netns_tests::peer::HoldReport;
use netns_tests::{
    Agent, Host, Node, OUTSIDE, Pod, Process, Server, Topology, Version, dataplane, eventually,
    eventually_equals,
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

/// Applies the Pod objects of pods: name of the file, pod, key and value of its label.
pub fn apply_pods(topology: &Topology, pods: &[(&str, &Pod, &str, &str)]) {
    for (file, pod, key, value) in pods {
        topology.apply(file, &pod_with_labels(pod, &[(key, value)]));
    }
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

/// Adds a pod with the installed CNI binary, requires that its first requests are answered, and deletes it.
pub fn short_pod(node: &Node, far: &str, number: usize) {
    let sandbox = node.sandbox(&format!("default/short-{number}"));
    let pod = node.pod_of(&sandbox, node.installed_cni("ADD", &sandbox).ok());
    let packets = pod.without_socket_programs();
    let requests = [(&*pod, vip(80)), (&packets, vip(80)), (&*pod, far.to_owned())];
    for ((host, server), request) in requests.into_iter().zip(0..) {
        // From a port of its own, so that it ends with a RST: a server that is slow would send its FIN to the
        // deleted pod.
        let from = 20_000 + (number * 3 + request) % 10_000;
        let response = host.connect_with("tcp", &server, &["--from", &from.to_string()]).remove(0);
        assert!(response.is_ok(), "pod {number} to {server}: {response:?}");
    }
    node.installed_cni("DEL", &sandbox).ok();
}

/// Pods that are added and deleted one after another.
#[derive(Default)]
pub struct Churn {
    end: AtomicBool,
    pods: AtomicUsize,
}

/// Ends the churn, also when the test panics: the scope waits for its thread.
struct End<'a>(&'a Churn);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end.store(true, Ordering::Relaxed);
    }
}

impl Churn {
    /// Least number of pods that are added and deleted between the start of one change and the start of the
    /// next.
    const LEAST: usize = 3;

    /// Makes changes on a node while a thread adds and deletes pods, one after another ([`short_pod`]). Returns
    /// the number of pods.
    pub fn while_running(node: &Node, far: &str, changes: impl FnOnce(&Churn)) -> usize {
        let churn = Churn::default();
        thread::scope(|scope| {
            let pods = scope.spawn(|| {
                while !churn.end.load(Ordering::Relaxed) {
                    short_pod(node, far, churn.pods());
                    churn.pods.fetch_add(1, Ordering::Relaxed);
                }
            });
            let end = End(&churn);
            changes(&churn);
            drop(end);
            pods.join().unwrap_or_else(|panic| resume_unwind(panic));
        });
        churn.pods()
    }

    fn pods(&self) -> usize {
        self.pods.load(Ordering::Relaxed)
    }

    /// Makes one change, and waits until some pods have been added and deleted since it began.
    pub fn during(&self, change: impl FnOnce()) {
        let least = self.pods() + Churn::LEAST;
        change();
        eventually("pods since the change began", || match self.pods() {
            pods if pods >= least => Ok(()),
            pods => Err(format!("{pods} of {least}")),
        });
    }
}
