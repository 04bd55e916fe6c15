//! Measures the agent with many policies, as `cargo xtask bench scale` runs it: the real agent, maps and pods on one
//! node of the namespace tests, with an API server in memory.
//!
//! `policy-scale-bench PODS POLICIES RULES`: Pods of the cluster, of which every 45th runs on the node;
//! NetworkPolicies that exist when the agent starts; rules of a policy of one pod that is created then. Prints one
//! JSON object. The programming times are those of the agent: from the last list, or from the change, until all rows
//! are written.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark ends where it fails")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::thread::sleep;
use std::time::{Duration, Instant};

use api_server::ApiServer;
use netns_tests::{Agent, Node, Topology, manifest};
use serde_json::{Value, json};

const NAMESPACES: u32 = 50;
/// Pods of an application.
const REPLICAS: u32 = 10;
/// One of how many pods runs on the node.
const NODES: u32 = 45;
const DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

fn main() {
    let numbers: Vec<u32> =
        std::env::args().skip(1).map(|number| number.parse().expect("a number")).collect();
    let &[pods, policies, rules] = numbers.as_slice() else { panic!("PODS POLICIES RULES") };
    let apps = pods.div_ceil(REPLICAS).max(1);

    let topology = Topology::new();
    let node = topology.node(1);
    let namespaces = node.namespaces.clone();
    let server = ApiServer::builder()
        .bind(move || namespaces.run(|| TcpListener::bind("127.0.0.1:0")))
        .start();
    server.apply(manifest::node_object(&node));
    for n in 0..NAMESPACES {
        server.apply(json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": format!("ns-{n}"), "labels": {"team": format!("t{}", n % 10)}},
        }));
    }
    let kubeconfig = topology.capture_file("kubeconfig");
    fs::write(&kubeconfig, manifest::kubeconfig(&server.url())).unwrap();
    let flags = ["--kubeconfig", kubeconfig.to_str().unwrap()];
    let first = node.agent_with(&flags);
    for n in 0..pods {
        let address = match n % NODES {
            0 => node.pod(&format!("{}/pod-{n}", namespace(n))).address,
            other => Ipv4Addr::from(0x0a00_0002 + (other << 16) + n / NODES),
        };
        server.apply(pod(n, n / REPLICAS, &node, address));
    }
    drop(first);

    // From nothing: the maps have no rows of policies.
    for n in 0..policies {
        server.apply(policy(n, apps));
    }
    let agent = node.agent_with(&flags);
    let begin = Instant::now();
    while tables(&node)["policy_peers"].as_u64().unwrap_or_default() == 0 {
        assert!(begin.elapsed() < DEADLINE, "not programmed:\n{}", agent.log());
        sleep(POLL);
    }
    let (all_s, all_rows) = (programming(&agent), tables(&node));

    // One pod gets many rules.
    server.apply(subject(&node));
    let subject = node.pod("ns-0/many").address;
    server.apply(with_address(&self::subject(&node), subject));
    let before = tables(&node)["policy_peers"].as_u64().unwrap_or_default();
    let object = many(rules, apps);
    let sent = Instant::now();
    server.apply(object);
    while tables(&node)["policy_peers"].as_u64().unwrap_or_default() < before + u64::from(rules) / 2
    {
        assert!(sent.elapsed() < DEADLINE, "not programmed:\n{}", agent.log());
        sleep(POLL);
    }
    let seen = sent.elapsed();
    println!(
        "{}",
        json!({
            "pods": pods, "local_pods": pods.div_ceil(NODES), "policies": policies, "rules": rules,
            "all_s": all_s, "all_rows": all_rows,
            "many_s": programming(&agent), "many_seen_s": seen.as_secs_f64(),
            "many_rows": tables(&node),
        })
    );
}

/// Number of rows by table, as far as all are written.
fn tables(node: &Node) -> Value {
    // It fails while maps are replaced by larger ones.
    let (_, text) = node.try_sluice(&["status", "-o", "json"]);
    let mut values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let status = values.next().and_then(Result::ok).unwrap_or_else(|| panic!("status: {text}"));
    status["tables"].clone()
}

/// Seconds that the last change took to be programmed.
fn programming(agent: &Agent) -> f64 {
    let metrics = agent.metrics();
    let value = metrics.lines().find_map(|l| l.strip_prefix("sluice_policy_programming_seconds "));
    value.and_then(|value| value.parse().ok()).expect("the metric")
}

fn namespace(n: u32) -> String {
    format!("ns-{}", n / REPLICAS % NAMESPACES)
}

/// Pod `n` with the labels of an application.
fn pod(n: u32, app: u32, node: &Node, address: Ipv4Addr) -> Value {
    let labels = json!({
        "app": format!("app-{app}"), "tier": format!("tier-{}", app % 3),
        "pod-template-hash": format!("5d{app}"),
    });
    let node =
        if n.is_multiple_of(NODES) { node.name.clone() } else { format!("node-{}", n % NODES) };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace(n), "name": format!("pod-{n}"), "labels": labels},
        "spec": {
            "nodeName": node,
            "containers": [{
                "name": "main",
                "ports": [{"name": "http", "containerPort": 8080 + app % 2}],
            }],
        },
    });
    with_address(&pod, address)
}

fn with_address(pod: &Value, address: Ipv4Addr) -> Value {
    let mut pod = pod.clone();
    pod["status"] = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
    pod
}

/// The pod that has many rules.
fn subject(node: &Node) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "ns-0", "name": "many", "labels": {"many": "rules"}},
        "spec": {"nodeName": node.name},
    })
}

/// Policy `n`: the pods of one application, three others by labels, by a namespace, and by a block.
fn policy(n: u32, apps: u32) -> Value {
    let app = n % apps;
    let selected = |key: &str, value: String| json!({"matchLabels": {key: value}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": format!("ns-{}", app % NAMESPACES), "name": format!("policy-{n}")},
        "spec": {
            "podSelector": selected("app", format!("app-{app}")),
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{
                "from": [
                    {
                        "namespaceSelector": {},
                        "podSelector": selected("app", format!("app-{}", (n * 7 + 1) % apps)),
                    },
                    {
                        "namespaceSelector": selected("team", format!("t{}", n % 10)),
                        "podSelector": selected("tier", format!("tier-{}", n % 3)),
                    },
                ],
                "ports": [{"protocol": "TCP", "port": "http"}],
            }],
            "egress": [{
                "to": [{"ipBlock": {"cidr": format!("192.{}.{}.0/24", n / 256 % 256, n % 256)}}],
                "ports": [{"protocol": "TCP", "port": 443}],
            }],
        },
    })
}

/// A policy with rules for hosts and for applications in turn, each with a port.
fn many(rules: u32, apps: u32) -> Value {
    let rule = |n: u32| {
        let peer = match n % 2 {
            0 => json!({"ipBlock": {"cidr": format!("{}/32", Ipv4Addr::from(0xc000_0000 + n))}}),
            _ => json!({
                "namespaceSelector": {},
                "podSelector": {"matchLabels": {"app": format!("app-{}", n % apps)}},
            }),
        };
        json!({"from": [peer], "ports": [{"protocol": "TCP", "port": 1024 + n % 1000}]})
    };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "ns-0", "name": "many"},
        "spec": {
            "podSelector": {"matchLabels": {"many": "rules"}},
            "policyTypes": ["Ingress"],
            "ingress": (0..rules).map(rule).collect::<Vec<_>>(),
        },
    })
}
