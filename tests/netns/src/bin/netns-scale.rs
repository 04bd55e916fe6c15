//! Measures the agent with many Services, as `cargo xtask bench scale` runs it: the real agent and
//! maps on one node of the namespace tests, with an API server in memory. Arguments: number of
//! Services, endpoints per Service (on average), changes, and 1 if all Services are of type LoadBalancer with an
//! address, and 2,500 of them have a NodePort. Prints one line of JSON.
//!
//! Loops that run only when nothing else does keep the CPUs from sleeping: in a virtual machine, waking
//! a CPU can take longer than the change that is measured, and counts as time of the agent.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark ends where it fails")]
#![allow(clippy::cast_precision_loss, reason = "approximate figures")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use api_server::ApiServer;
use netns_tests::{Topology, cpu_seconds, dataplane, manifest};
use serde_json::{Value, json};
use sluice_abi::{Frontend, FrontendKey, PortBe, ServicePort, map, pin, proto};
use sluice_bpf::Map;

/// Interval of changes: 20 a second.
const INTERVAL: Duration = Duration::from_millis(50);
/// Interval at which the map is read until a change is in it.
const POLL: Duration = Duration::from_micros(100);
const DEADLINE: Duration = Duration::from_secs(120);

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<f64>().expect("a number"));
    let services = arguments.next().unwrap_or(10_000.0) as u32;
    let endpoints = arguments.next().unwrap_or(10.0);
    let changes = arguments.next().unwrap_or(400.0) as u32;
    let are_external = arguments.next().is_some_and(|n| n > 0.0);

    let topology = Topology::new();
    let node = topology.node(1);
    let namespaces = node.namespaces.clone();
    let server = ApiServer::builder()
        .bind(move || namespaces.run(|| TcpListener::bind("127.0.0.1:0")))
        .start();
    server.apply(manifest::node_object(&node));
    for n in 0..services {
        let mut service = service(n);
        if are_external {
            make_external(n, &mut service);
        }
        server.apply(service);
        server.apply(slice(n, of(n, endpoints), 0));
    }
    let kubeconfig = topology.capture_file("kubeconfig");
    fs::write(&kubeconfig, manifest::kubeconfig(&server.url())).unwrap();

    let started = Instant::now();
    let agent = node.agent_not_ready(&["--kubeconfig", kubeconfig.to_str().unwrap()]);
    while !agent.log().contains("maps written for the first time") {
        assert!(started.elapsed() < DEADLINE, "not programmed:\n{}", agent.log());
        sleep(Duration::from_millis(2));
    }
    let programmed = started.elapsed();
    let process = Path::new("/proc").join(agent.pid().to_string());
    sleep(Duration::from_secs(3));
    let (after_list, peak) = (status(&process, "VmRSS"), status(&process, "VmHWM"));

    let path = |name| Path::new(pin::MAPS).join(name);
    let (frontends, rows): (Map<FrontendKey, Frontend>, Map<u32, ServicePort>) =
        node.namespaces.run(|| {
            let frontends = Map::open_pinned(path(map::FRONTENDS)).expect("FRONTENDS");
            (frontends, Map::open_pinned(path(map::SERVICES)).expect("SERVICES"))
        });
    let _awake = Awake::start();
    let cpu_before = cpu_seconds(agent.pid());
    let begin = Instant::now();
    let mut latencies = Vec::new();
    for round in 0..changes {
        let n = round.wrapping_mul(7919) % services;
        let id = frontends.lookup(&key(n)).unwrap().expect("a frontend").service;
        let before = rows.lookup(&id).unwrap();
        let object = slice(n, of(n, endpoints), 1 + round / services);
        let sent = Instant::now();
        server.apply(object);
        while rows.lookup(&id).unwrap() == before {
            assert!(sent.elapsed() < DEADLINE, "change {round} is not in the map");
            sleep(POLL);
        }
        latencies.push(sent.elapsed().as_secs_f64() * 1e3);
        sleep((INTERVAL * (round + 1)).saturating_sub(begin.elapsed()));
    }
    let share = (cpu_seconds(agent.pid()) - cpu_before) / begin.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    let quantile = |q: f64| {
        let at = ((latencies.len() as f64 - 1.0) * q).round() as usize;
        latencies.get(at).copied()
    };
    let endpoints: u32 = (0..services).map(|n| of(n, endpoints)).sum();
    println!(
        "{}",
        json!({
            "services": services, "endpoints": endpoints, "external": are_external,
            "programmed_s": programmed.as_secs_f64(),
            "rss_peak_kib": peak, "rss_after_list_kib": after_list,
            "rss_steady_kib": status(&process, "VmRSS"),
            "latency_p50_ms": quantile(0.5), "latency_p99_ms": quantile(0.99),
            "cpu_cores": share,
            "maps_kib": dataplane::memory(&node).iter().map(|map| map.bytes >> 10).sum::<u64>(),
        })
    );
}

/// One loop of the scheduler's idle class for each CPU.
struct Awake(Vec<Child>);

impl Awake {
    fn start() -> Awake {
        let cpus = std::thread::available_parallelism().unwrap().get();
        let start = |_| {
            // Ends with this process, however it ends.
            let words = ["--idle", "0", "sh", "-c", "while kill -0 $PPID; do :; done"];
            Command::new("chrt").args(words).spawn().expect("chrt")
        };
        Awake((0..cpus).map(start).collect())
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Endpoints of Service `n`: numbers around the average, so that 5.2 means 5 or 6.
fn of(n: u32, average: f64) -> u32 {
    let sum = |n: u32| (f64::from(n) * average).floor();
    (sum(n + 1) - sum(n)) as u32
}

fn name(n: u32) -> (String, String) {
    (format!("namespace-{}", n % 100), format!("service-{n}"))
}

fn address(n: u32) -> IpAddr {
    Ipv4Addr::from(0x0a60_0001 + n).into()
}

fn key(n: u32) -> FrontendKey {
    FrontendKey { addr: address(n).into(), port: PortBe::new(80), proto: proto::TCP, pad: 0 }
}

fn service(n: u32) -> Value {
    let (namespace, name) = name(n);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "namespace": namespace, "name": name, "uid": format!("{n:032x}"),
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": name},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": address(n), "clusterIPs": [address(n)],
            "selector": {"app": name}, "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
    })
}

/// Gives a Service an address of a load balancer, and a NodePort if the range has one left.
fn make_external(n: u32, service: &mut Value) {
    let spec = &mut service["spec"];
    spec["type"] = json!("LoadBalancer");
    spec["allocateLoadBalancerNodePorts"] = json!(false);
    spec["externalTrafficPolicy"] = json!("Cluster");
    if n < 2_500 {
        spec["ports"][0]["nodePort"] = json!(30_000 + n);
    }
    let address = Ipv4Addr::from(0x6440_0001 + n);
    service["status"] = json!({"loadBalancer": {"ingress": [{"ip": address}]}});
}

/// Each generation has other addresses.
fn slice(n: u32, endpoints: u32, generation: u32) -> Value {
    let (namespace, name) = name(n);
    let endpoint = |m: u32| {
        let address = Ipv4Addr::from(0x0b00_0000 + n * 64 + (generation % 2) * 32 + m % 32);
        json!({
            "addresses": [address],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", (n + m) % 1000), "zone": "zone-a",
            "targetRef": {
                "kind": "Pod", "namespace": namespace, "name": format!("{name}-7d4b9c{m:04x}"),
                "uid": format!("{n:024x}{m:08x}"),
            },
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace, "name": format!("{name}-abcde"), "uid": format!("{n:031x}e"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"kubernetes.io/service-name": name, "app": name},
        },
        "addressType": "IPv4",
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    })
}

/// A line of /proc/PID/status in KiB.
fn status(process: &Path, field: &str) -> u64 {
    let text = fs::read_to_string(process.join("status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).expect(field)
}
