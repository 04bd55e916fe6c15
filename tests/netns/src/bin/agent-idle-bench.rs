//! CPU time of an agent with many pods: while nothing changes, and for one repair. Prints one JSON
//! object.
//!
//! `agent-idle-bench [PODS] [SECONDS]`, as root, after `cargo xtask build`. A period of 30 seconds
//! contains one comparison of everything.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench ends where it fails")]

use std::thread;
use std::time::{Duration, Instant};

use netns_tests::{Topology, cpu_seconds, eventually_equals, ip, ip_json};
use serde_json::json;

/// Changes of one pod whose repair is timed.
const REPAIRS: u32 = 20;

fn main() {
    let argument = |n: usize, default: u64| {
        std::env::args().nth(n).map_or(default, |text| text.parse().expect("[PODS] [SECONDS]"))
    };
    let (pods, seconds) = (argument(1, 250), argument(2, 60));
    let topology = Topology::new();
    let node = topology.node(1);
    let agent = node.agent();
    let all: Vec<_> = (0..pods).map(|n| node.pod(&format!("default/pod-{n}"))).collect();
    // The notifications of the last ADD are processed.
    thread::sleep(Duration::from_secs(2));
    let before = cpu_seconds(agent.pid());
    thread::sleep(Duration::from_secs(seconds));
    let idle = cpu_seconds(agent.pid()) - before;

    let before = cpu_seconds(agent.pid());
    let mut slowest = Duration::ZERO;
    for _ in 0..REPAIRS {
        let route = format!("route show {}", all[0].address);
        ip(&node.namespaces, &format!("route del {}", all[0].address));
        let start = Instant::now();
        eventually_equals("route", 1, || ip_json(&node.namespaces, &route).len());
        slowest = slowest.max(start.elapsed());
    }
    let repairs = cpu_seconds(agent.pid()) - before;
    let report = json!({
        "pods": pods,
        "seconds": seconds,
        "idle_core": idle / seconds as f64,
        "repair_cpu_ms": repairs * 1e3 / f64::from(REPAIRS),
        "slowest_repair_ms": slowest.as_secs_f64() * 1e3,
    });
    println!("{report}");
}
