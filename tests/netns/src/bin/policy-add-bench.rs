//! Time from the return of ADD until a pod's first packet passes, with pods that are closed by default, on
//! two nodes with the real agents and an API server in memory; `cargo xtask bench policy` runs it. Prints one
//! JSON object.
//!
//! `policy-add-bench POLICIES PODS`: a file with a list of NetworkPolicies that select the label of POLICIES,
//! the value of `policies` in its first policy, and allow `role: client` to send to UDP port 7000 of
//! `role: server`; the number of pods that are created, one after the other.
//!
//! ```text
//! Pod object -> ADD of the CNI binary -> its process has ended        the server on the node answers
//!                                            |<------ near ------------->|
//!               address of the Pod is applied ->                      that on the other node answers
//!                                            |<------ far -------------->|
//! ```
//! The pod sends a datagram every half millisecond; the time includes the one that is answered, and its
//! answer.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench ends where it fails")]

use std::fs;
use std::io::{BufReader, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use api_server::ApiServer;
use netns_tests::{
    Agent, CniCall, CniOutput, Namespaces, Node, OUTSIDE, Sandbox, Topology, manifest,
};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use serde_json::{Value, json};

/// Port of the API server on the host outside, which both nodes reach.
const API_PORT: u16 = 6443;
/// Port of the servers.
const PORT: u16 = 7000;
const INTERVAL: Duration = Duration::from_micros(500);
const DEADLINE: Duration = Duration::from_secs(30);
/// Time from the Pod object to ADD: a kubelet creates volumes and the sandbox first.
const BEFORE_ADD: Duration = Duration::from_millis(100);
/// Datagrams to the other node before it knows the pod's address.
const CLOSED: u32 = 10;

/// Two nodes with their agents, an API server and a server on each node.
struct Bench {
    server: ApiServer,
    near: Node,
    far: Node,
    /// Label of pods that the policies select.
    selected: String,
    /// Addresses of the servers.
    targets: [SocketAddr; 2],
    _agents: [Agent; 2],
    _topology: Topology,
}

/// The times of one pod in milliseconds.
struct Times {
    add: f64,
    near: f64,
    far: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [policies, pods] = arguments.as_slice() else { panic!("POLICIES PODS") };
    let file = BufReader::new(fs::File::open(policies).expect(policies));
    let policies: Vec<Value> = serde_json::from_reader(file).expect("a list of policies");
    let bench = Bench::start(&policies);
    // The first pod waits for the servers' programming, and keeps the tables that the others share.
    let keeper = bench.sandbox(0);
    bench.measure(0, &keeper);
    let mut times = Vec::new();
    for number in 1..=pods.parse().expect("PODS") {
        let sandbox = bench.sandbox(number);
        times.push(bench.measure(number, &sandbox));
        bench.remove(number, &sandbox);
        if number % 20 == 0 {
            eprintln!("{number} pods of {pods}");
        }
    }
    let rows = bench.rows();
    let of = |time: fn(&Times) -> f64| {
        let mut times: Vec<f64> = times.iter().map(time).collect();
        times.sort_by(f64::total_cmp);
        times
    };
    println!(
        "{}",
        json!({
            "policies": policies.len(), "rows": rows,
            "add_ms": of(|times| times.add),
            "near_ms": of(|times| times.near), "far_ms": of(|times| times.far),
        })
    );
}

impl Bench {
    fn start(policies: &[Value]) -> Bench {
        let topology = Topology::new();
        let (near, far) = (topology.node(1), topology.node(2));
        let namespaces = topology.outside.namespaces().clone();
        let bind = move || namespaces.run(|| TcpListener::bind((OUTSIDE, API_PORT)));
        let server = ApiServer::builder().bind(bind).start();
        for node in [&near, &far] {
            server.apply(manifest::node_object(node));
        }
        server.apply(json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"},
        }));
        server.apply(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "default", "name": "default-deny"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
        }));
        for policy in policies {
            server.apply(policy.clone());
        }
        let selected = &policies[0]["spec"]["podSelector"]["matchLabels"]["policies"];
        let selected = selected.as_str().expect("the label `policies`").to_owned();
        let kubeconfig = topology.capture_file("kubeconfig");
        fs::write(&kubeconfig, manifest::kubeconfig(&server.url())).unwrap();
        let flags = ["--kubeconfig", kubeconfig.to_str().unwrap()];
        let agents = netns_tests::agents([(&near, &flags), (&far, &flags)]);
        let mut bench = Bench {
            targets: [SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)); 2],
            server,
            near,
            far,
            selected,
            _agents: agents,
            _topology: topology,
        };
        let servers = [&bench.near, &bench.far].map(|node| {
            let name = format!("server-{}", node.name);
            bench.apply(&name, &node.name, "server", None);
            let pod = node.pod(&format!("default/{name}"));
            bench.apply(&name, &node.name, "server", Some(pod.address));
            echo(&pod.sandbox.namespaces);
            SocketAddr::from((pod.address, PORT))
        });
        bench.targets = servers;
        bench
    }

    fn sandbox(&self, number: u32) -> Sandbox {
        self.near.sandbox(&format!("default/client-{number}"))
    }

    /// Creates the pod of a sandbox and waits until both servers have answered it.
    fn measure(&self, number: u32, sandbox: &Sandbox) -> Times {
        let name = format!("client-{number}");
        self.apply(&name, &self.near.name, "client", None);
        sleep(BEFORE_ADD);
        let output = self.cni("ADD", number, sandbox);
        let returned = Instant::now();
        let [near, far] = self.targets;
        let near = sandbox.namespaces.run(|| answered(near, returned, None));
        let near = near.unwrap_or_else(|| panic!("{name} is closed: {}", self.state(&self.near)));
        let result = output.ok();
        let address = result["ips"][0]["address"].as_str().and_then(|cidr| cidr.split('/').next());
        let address: Ipv4Addr = address.expect("an address").parse().unwrap();
        // Without the address, the other node has to drop what it receives.
        let early = sandbox.namespaces.run(|| answered(far, Instant::now(), Some(CLOSED)));
        assert_eq!(early, None, "{name} is open on the other node");
        let applied = Instant::now();
        self.apply(&name, &self.near.name, "client", Some(address));
        let far = sandbox.namespaces.run(|| answered(far, applied, None));
        let far = far.unwrap_or_else(|| {
            let [near, far] = [&self.near, &self.far].map(|node| self.state(node));
            panic!("{name} is closed on the other node: {near}{far}")
        });
        Times { add: milliseconds(output.took), near: milliseconds(near), far: milliseconds(far) }
    }

    fn remove(&self, number: u32, sandbox: &Sandbox) {
        self.cni("DEL", number, sandbox).ok();
        self.server.delete("Pod", "default", &format!("client-{number}"));
        self.near.drop_sandbox(&sandbox.path);
    }

    fn cni(&self, verb: &str, number: u32, sandbox: &Sandbox) -> CniOutput {
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=client-{number};\
             K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            sandbox.id,
            uid(&format!("client-{number}"))
        );
        CniCall::for_sandbox(verb, &self.near.config(), sandbox)
            .set("CNI_ARGS", &arguments)
            .run(&self.near.namespaces)
    }

    /// A Pod that is bound to a node, with its address as soon as it has one.
    fn apply(&self, name: &str, node: &str, role: &str, address: Option<Ipv4Addr>) {
        let status = match address {
            None => json!({"phase": "Pending"}),
            Some(ip) => json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}),
        };
        self.server.apply(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": "default", "name": name, "uid": uid(name),
                "labels": {"policies": self.selected, "role": role},
            },
            "spec": {"nodeName": node},
            "status": status,
        }));
    }

    /// What a node says about packets that it dropped.
    fn state(&self, node: &Node) -> String {
        let (_, drops) = node.try_sluice(&["drops"]);
        let last: Vec<&str> = drops.lines().rev().take(5).collect();
        let (_, status) = node.try_sluice(&["status"]);
        format!("\n{}:\n{}\n{status}", node.name, last.join("\n"))
    }

    /// Rows of policies on the pods' node.
    fn rows(&self) -> Value {
        let text = self.near.sluice(&["status", "-o", "json"]);
        let status: Value = serde_json::from_str(&text).unwrap();
        status["tables"].clone()
    }
}

/// The UID of a Pod: 32 hexadecimal digits.
fn uid(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits:0<32}")
}

/// Answers datagrams in a pod until the process ends.
fn echo(pod: &Namespaces) {
    let socket = pod.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))).unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 8];
        loop {
            if let Ok((length, client)) = socket.recv_from(&mut bytes) {
                let _ = socket.send_to(&bytes[..length], client);
            }
        }
    });
}

/// Time from `since` until a datagram of a new socket is answered; `None` if none of the first `limit` is.
fn answered(target: SocketAddr, since: Instant, limit: Option<u32>) -> Option<Duration> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect(target).unwrap();
    socket.set_nonblocking(true).unwrap();
    let start = Instant::now();
    for sent in 0_u32.. {
        if limit.is_some_and(|limit| sent >= limit) || start.elapsed() > DEADLINE {
            return None;
        }
        let _ = socket.send(b"x");
        let next = start + INTERVAL * (sent + 1);
        loop {
            match socket.recv(&mut [0; 8]) {
                Ok(_) => return Some(since.elapsed()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                // An ICMP error about a datagram.
                Err(_) => continue,
            }
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let mut descriptors = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            let _ = ppoll(&mut descriptors, Some(TimeSpec::from_duration(left)), None);
        }
    }
    None
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
