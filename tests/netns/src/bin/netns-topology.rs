//! Creates a topology of one node with its agent, a pod and a server in it, prints the paths and
//! process ids as JSON, and waits until its standard input ends. For the test that an interrupted
//! run leaves nothing, and to inspect a node manually (`nsenter --net=... --mount=...`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::io::Read;

use netns_tests::Topology;
use serde_json::json;

fn main() {
    let topology = Topology::new();
    let node = topology.node(1);
    let agent = node.agent();
    let pod = node.pod("default/web");
    let servers = [pod.serve("web", &["tcp:80"]), pod.without_socket_programs().serve("b", &[])];
    let report = json!({
        "agent": agent.pid(),
        "cgroup": node.cgroup_root(),
        "net": node.namespaces.net_path(),
        "folder": topology.capture_file("x").parent(),
        "pod": pod.address,
        "servers": servers.iter().map(netns_tests::Server::pid).collect::<Vec<_>>(),
    });
    println!("{report}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
