//! Agents that are killed or absent, nodes that leave and return. These tests disturb all others:
//! `cargo xtask test` runs this file last, and they run one after the other.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

use std::sync::Mutex;
use std::time::Duration;

use cluster_tests::{
    ChangedAgents, Load, Namespace, client_on, docker, eventually, kubectl, nodes, replicas,
    rollout, server_on, service, workers,
};
use serde_json::json;

static ALONE: Mutex<()> = Mutex::new(());

fn agents_ready() {
    rollout("sluice-system", "daemonset/sluice");
}

#[test]
fn agents_killed_under_load_lose_no_request() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let ns = Namespace::new("kill");
    let workers = workers();
    ns.apply(&client_on("client", &workers[0].name, false));
    ns.apply(&(replicas("web", 2) + &service("web", "web", &[("web", "TCP", 80, "web")])));
    ns.ready("client", 1);
    ns.ready("web", 2);
    let url = format!("http://{}/hostname", ns.cluster_ip("web"));
    let load = Load::start(&ns, "client", &url);
    for _ in 0..2 {
        let before = agent_ids();
        for node in nodes() {
            // As by a crash; kubelet starts the container again.
            docker(&["exec", &node.name, "pkill", "-KILL", "-f", "sluice agent"]).unwrap();
        }
        eventually("new agents", Duration::from_secs(90), || {
            let now = agent_ids();
            let fresh = now.iter().all(|id| !before.contains(id)) && now.len() == before.len();
            if fresh { Ok(()) } else { Err(format!("{now:?}")) }
        });
        agents_ready();
    }
    load.expect_no_failure();
}

/// Container ids of all running agents.
fn agent_ids() -> Vec<String> {
    kubectl(&[
        "-n",
        "sluice-system",
        "get",
        "pods",
        "-o",
        "jsonpath={.items[*].status.containerStatuses[?(@.started==true)].containerID}",
    ])
    .split_whitespace()
    .map(str::to_owned)
    .collect()
}

#[test]
fn pods_are_created_while_no_agent_runs() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let ns = Namespace::new("away");
    let workers = workers();
    ns.apply(&server_on("before", "before", &workers[1].name));
    let server = ns.ready("before", 1).remove(0);
    let _agents = ChangedAgents::new(ChangedAgents::NODE_SELECTOR, |labels| {
        labels["sluice.test/nowhere"] = json!("true");
    });
    eventually("removal of all agents", Duration::from_secs(90), || {
        let pods = kubectl(&["-n", "sluice-system", "get", "pods", "-o", "name"]);
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
    ns.apply(&client_on("during", &workers[0].name, false));
    ns.ready("during", 1);
    assert_eq!(
        ns.sh_eventually("during", &format!("curl -sf -m 3 http://{server}:8080/hostname")),
        "before"
    );
}

#[test]
fn node_that_leaves_and_returns_gets_its_routes_back() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let workers = workers();
    let (stays, leaves) = (&workers[0], &workers[1]);
    let range = leaves.pod_cidr.unwrap().to_string();
    let routes = || docker(&["exec", &stays.name, "ip", "-4", "route", "show", "proto", "83"]);
    assert!(routes().unwrap().contains(&range), "{:?}", routes());
    docker(&["exec", &leaves.name, "systemctl", "stop", "kubelet"]).unwrap();
    let _back = StartKubelet(&leaves.name);
    kubectl(&["delete", "node", &leaves.name, "--wait=true"]);
    eventually("removal of the route", Duration::from_secs(30), || match routes() {
        Ok(text) if !text.contains(&range) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    docker(&["exec", &leaves.name, "systemctl", "start", "kubelet"]).unwrap();
    let node = eventually("the node to be Ready again", Duration::from_secs(120), || {
        nodes()
            .into_iter()
            .find(|n| n.name == leaves.name && n.ready && n.pod_cidr.is_some())
            .ok_or("not yet")
    });
    agents_ready();
    let ns = Namespace::new("back");
    ns.apply(&client_on("client", &stays.name, false));
    ns.apply(&server_on("server", "server", &leaves.name));
    ns.ready("client", 1);
    let address = ns.ready("server", 1).remove(0);
    assert!(node.pod_cidr.unwrap().contains(&address.parse::<std::net::IpAddr>().unwrap()));
    let url = format!("curl -sf -m 3 http://{address}:8080/hostname");
    assert_eq!(ns.sh_eventually("client", &url), "server");
}

struct StartKubelet<'a>(&'a str);

impl Drop for StartKubelet<'_> {
    fn drop(&mut self) {
        let _ = docker(&["exec", self.0, "systemctl", "start", "kubelet"]);
    }
}
