//! Bursts of ADDs on a node that has pods already, as when a node starts or a deployment is scaled.
//!
//! In every round 16 processes start at once: Sluice with 250 pods, Sluice with almost as many leases as
//! a node can have, ptp with host-local with 250 pods, and VERSION of Sluice's binary, which shows what
//! starting 16 processes costs on this machine. A round of one kind lasts 320 ms, so each has 50 ADDs
//! a second. DELs run after the last round, all at once in groups of 16.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use netns_tests::{CniCall, Node, NodeOptions, Sandbox, Topology, dataplane, plugin};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use serde_json::{Value, json};
use sluice_pod::lease::{BootInstant, InUse, LeaseKey, Request, Store, Subnet};

use crate::{milliseconds, percentile, with_plugin};

pub const ROUNDS: usize = 20;

/// ADDs at once.
const BURST: usize = 16;

/// Time from one burst of a kind to the next: 50 ADDs a second.
const INTERVAL: Duration = Duration::from_millis(320);

/// Pods that a node has before the first burst.
const PODS: usize = 250;

/// Most leases that a node can have.
const LEASES: usize = 4_095;

/// Where leases are that belong to no device.
const STATE: &str = "/run/sluice/cni";

/// One node with its pods, and what a burst on it calls.
struct Subject {
    name: &'static str,
    node: Node,
    config: Value,
    plugin: Option<PathBuf>,
    add: Vec<f64>,
    del: Vec<f64>,
    cpu: Duration,
    sandboxes: Vec<Sandbox>,
}

impl Subject {
    fn new(topology: &Topology, number: u8, name: &'static str, range: &str) -> Subject {
        let node = topology.node_with(number, NodeOptions { pod_cidr: Some(range) });
        dataplane::load(&node);
        let config = json!({
            "cniVersion": "1.0.0", "name": "sluice", "type": "sluice", "subnet": range,
            "stateDir": STATE, "mtu": 1500,
        });
        let (add, del, sandboxes) = (Vec::new(), Vec::new(), Vec::new());
        let cpu = Duration::ZERO;
        Subject { name, node, config, plugin: None, add, del, cpu, sandboxes }
    }

    fn reference(mut self) -> Subject {
        self.config = json!({
            "cniVersion": "1.0.0", "name": "ptp", "type": "ptp", "ipMasq": false,
            "ipam": {
                "type": "host-local", "dataDir": "/run/host-local",
                "ranges": [[{"subnet": self.config["subnet"]}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        });
        self.plugin = Some(plugin("ptp"));
        self
    }

    /// Gives the node `count` leases without a device.
    fn with_leases(self, count: usize) -> Subject {
        let subnet: Subnet = self.config["subnet"].as_str().unwrap().parse().unwrap();
        self.node.namespaces.run(|| {
            let store = Store::new(STATE);
            let now = BootInstant::now().unwrap();
            let locked = store.lock("bench").unwrap();
            locked.open(|| Ok::<_, sluice_pod::lease::StoreError>(Vec::new())).unwrap();
            let mut in_use = InUse::default();
            for n in 0..count {
                let request = Request {
                    key: LeaseKey { container_id: format!("{n:064x}"), ifname: "eth0".into() },
                    network: "sluice".into(),
                    pod_namespace: Some("default".into()),
                    pod_name: Some(format!("former-{n}")),
                    pod_uid: None,
                    netns: format!("/run/netns/cni-{n:x}"),
                    host_ports: Vec::new(),
                    netns_cookie: None,
                };
                in_use.add(&locked.allocate(&in_use, subnet, request, &now).unwrap().unwrap());
            }
        });
        self
    }

    /// Creates the pods that exist before the first burst.
    fn with_pods(mut self, count: usize) -> Subject {
        for _ in 0..count.div_ceil(BURST) {
            let pods = self.sandboxes(BURST);
            self.burst("ADD", &pods);
            self.sandboxes.extend(pods);
        }
        self
    }

    fn sandboxes(&self, count: usize) -> Vec<Sandbox> {
        (0..count).map(|_| self.node.sandbox("default/bench")).collect()
    }

    /// The durations of one call for each sandbox, all started at once.
    fn burst(&self, verb: &str, pods: &[Sandbox]) -> Vec<f64> {
        let took = |pod: &Sandbox| {
            let call = CniCall::for_sandbox(verb, &self.config, pod);
            let call = match &self.plugin {
                Some(plugin) => with_plugin(call, plugin),
                None => call,
            };
            let output = call.run(&self.node.namespaces);
            output.ok();
            milliseconds(output.took)
        };
        thread::scope(|scope| {
            let calls: Vec<_> = pods.iter().map(|pod| scope.spawn(|| took(pod))).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        })
    }

    fn round(&mut self, pods: Vec<Sandbox>) {
        let (start, cpu) = (Instant::now(), cpu_of_children());
        self.add.extend(self.burst("ADD", &pods));
        self.cpu += cpu_of_children() - cpu;
        self.sandboxes.extend(pods);
        thread::sleep(INTERVAL.saturating_sub(start.elapsed()));
    }

    /// Removes every pod.
    fn end(&mut self) {
        let pods = std::mem::take(&mut self.sandboxes);
        for group in pods.chunks(BURST) {
            let took = self.burst("DEL", group);
            self.del.extend(took);
        }
    }

    fn report(&self) -> Value {
        let all = |times: &[f64]| {
            json!({
                "p50_ms": percentile(times.to_vec(), 0.5),
                "p99_ms": percentile(times.to_vec(), 0.99),
                "max_ms": percentile(times.to_vec(), 1.0),
                "calls": times.len(),
            })
        };
        let cpu = milliseconds(self.cpu) / self.add.len() as f64;
        let (add, del) = (all(&self.add), all(&self.del));
        json!({"name": self.name, "add": add, "cpu_ms_per_add": cpu, "del": del})
    }
}

/// CPU time of all processes that have ended. Unlike the duration of a call, it hardly depends on what
/// else runs on the machine.
fn cpu_of_children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let duration =
        |time: TimeVal| Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap());
    duration(usage.user_time()) + duration(usage.system_time())
}

pub fn run(rounds: usize) -> Value {
    let topology = Topology::new();
    let during = (rounds + 1) * BURST;
    let mut subjects = [
        Subject::new(&topology, 1, "sluice, 250 pods", "10.16.0.0/18").with_pods(PODS),
        Subject::new(&topology, 2, "sluice, 4,095 leases", "10.17.0.0/18")
            .with_leases(LEASES - during),
        Subject::new(&topology, 3, "ptp + host-local, 250 pods", "10.18.0.0/18")
            .reference()
            .with_pods(PODS),
    ];
    let (mut starts, mut start_cpu) = (Vec::new(), Duration::ZERO);
    for round in 0..=rounds {
        // The kernel creates a namespace much more slowly than the binaries work.
        let pods: Vec<_> = subjects.iter().map(|subject| subject.sandboxes(BURST)).collect();
        let cpu = cpu_of_children();
        let took = subjects[0].burst("VERSION", &pods[0]);
        if round > 0 {
            starts.extend(took);
            start_cpu += cpu_of_children() - cpu;
        }
        for (subject, pods) in subjects.iter_mut().zip(pods) {
            subject.round(pods);
            // The first round fills the page cache.
            if round == 0 {
                subject.add.clear();
                subject.cpu = Duration::ZERO;
            }
        }
    }
    subjects.iter_mut().for_each(Subject::end);
    json!({
        "rounds": rounds,
        "start_p50_ms": percentile(starts.clone(), 0.5),
        "start_p99_ms": percentile(starts.clone(), 0.99),
        "start_cpu_ms": milliseconds(start_cpu) / starts.len() as f64,
        "subjects": subjects.each_ref().map(Subject::report),
    })
}
