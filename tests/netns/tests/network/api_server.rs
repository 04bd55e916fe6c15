//! The agent with an API server: status, health, and a server that disappears without a sound.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use api_server::{ApiServer, Fault};
use netns_tests::peer::HoldReport;
use netns_tests::{
    Agent, BIN_FILE, CONF_FILE, Node, OUTSIDE, Topology, dataplane, eventually, eventually_equals,
    ip, manifest,
};
use serde_json::{Value, json};
use sluice_abi::{Frontend, FrontendKey, map};

/// The service account of a pod, below the node's own /run.
const SERVICE_ACCOUNT: &str = "/run/secrets/kubernetes.io/serviceaccount";
const PORT: u16 = 6443;
const KINDS: [&str; 9] = [
    "ClusterNetworkPolicy",
    "CustomResourceDefinition",
    "EndpointSlice",
    "Namespace",
    "NetworkPolicy",
    "Node",
    "Pod",
    "Service",
    "ServiceCIDR",
];
/// Interval of the test's own requests, and their duration on a busy machine.
const MARGIN: Duration = Duration::from_secs(2);

/// An API server without TLS on the host outside, with the Node object of `node`.
fn outside(topology: &Topology, node: &Node) -> ApiServer {
    let namespaces = topology.outside.namespaces().clone();
    let bind = move || namespaces.run(|| TcpListener::bind((OUTSIDE, PORT)));
    let server = ApiServer::builder().bind(bind).start();
    server.apply(node_object(node, json!([])));
    server
}

fn node_object(node: &Node, taints: Value) -> Value {
    let mut object = manifest::node_object(node);
    object["spec"]["taints"] = taints;
    object
}

fn service(server: &ApiServer, name: &str, address: &str) {
    server.apply(json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80}]},
    }));
}

/// The agent of a node without kubelet.conf, when it is ready.
fn agent(node: &Node) -> Agent {
    let mut agent = start(node);
    agent.wait_ready();
    agent
}

fn start(node: &Node) -> Agent {
    node.namespaces.run(|| {
        fs::create_dir_all(SERVICE_ACCOUNT).unwrap();
        for (file, content) in [("token", "t"), ("ca.crt", ""), ("namespace", "sluice-system")] {
            fs::write(format!("{SERVICE_ACCOUNT}/{file}"), content).unwrap();
        }
    });
    let server = format!("--api-server=http://{OUTSIDE}:{PORT}");
    node.agent_not_ready(&[&server, "--kubelet-conf=/does/not/exist"])
}

/// The watches of `sluice status`.
fn watches(node: &Node) -> Vec<Value> {
    let (_, text) = node.try_sluice(&["status", "-o", "json"]);
    let status = serde_json::Deserializer::from_str(&text).into_iter::<Value>().next();
    status.unwrap().unwrap()["watches"].as_array().unwrap().clone()
}

fn failing(node: &Node) -> usize {
    watches(node).iter().filter(|watch| !watch["failingSeconds"].is_null()).count()
}

#[test]
fn agent_uses_the_given_api_server_and_shows_its_watches() {
    let topology = Topology::new();
    let node = topology.node(1);
    let server = outside(&topology, &node);
    let _agent = agent(&node);
    let requests = server.requests();
    assert!(requests.iter().all(|r| r.authorization.as_deref() == Some("Bearer t")));
    eventually_equals("watches that are synced", KINDS.len(), || {
        watches(&node).iter().filter(|watch| watch["synced"] == true).count()
    });
    let mut kinds: Vec<String> =
        watches(&node).iter().map(|w| w["kind"].as_str().unwrap().to_owned()).collect();
    kinds.sort();
    assert_eq!(kinds, KINDS);
    let text = node.sluice(&["status"]);
    assert!(text.contains("Watch Service:") && text.contains("synced, last data"), "{text}");
}

/// No RST, no FIN, no ICMP error: the peer's device is down. Without TLS the connections are HTTP/1.1,
/// so that TCP alone detects it.
#[test]
fn lost_api_server_is_noticed_within_15_seconds_and_its_return_within_3() {
    let topology = Topology::new();
    let node = topology.node(1);
    let server = outside(&topology, &node);
    let _agent = agent(&node);
    eventually_equals("running watches", KINDS.len(), || server.watches());
    let host = topology.outside.namespaces();
    ip(host, "link set eth0 down");
    let lost = Instant::now();
    service(&server, "new", "10.96.7.7");
    while failing(&node) < KINDS.len() {
        let elapsed = lost.elapsed();
        assert!(elapsed < Duration::from_secs(15) + MARGIN, "not noticed after {elapsed:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let noticed = lost.elapsed();

    ip(host, "link set eth0 up");
    ip(host, "route replace default via 203.0.113.1");
    let back = Instant::now();
    eventually("the new Service", || {
        let services = node.sluice(&["service"]);
        if services.contains("10.96.7.7") { Ok(()) } else { Err(services) }
    });
    let served = back.elapsed();
    assert!(served < Duration::from_secs(3) + MARGIN, "served after {served:?}");
    eventually_equals("failing watches", 0, || failing(&node));
    println!("noticed after {noticed:?}, served {served:?} after the return");
}

#[test]
fn healthz_follows_the_node_object() {
    let topology = Topology::new();
    let node = topology.node(1);
    let server = outside(&topology, &node);
    let agent = agent(&node);
    let code = |path: &str| {
        let response = agent.get(path).unwrap();
        let code: u16 = response.split(' ').nth(1).unwrap().parse().unwrap();
        let eligible = response.contains(r#""nodeEligible":true"#);
        (code, eligible)
    };
    assert_eq!((code("/healthz"), code("/livez")), ((200, true), (200, false)));
    let taint = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    for (what, change) in [("tainted", Some(taint)), ("deleted", None)] {
        match change {
            Some(taints) => drop(server.apply(node_object(&node, taints))),
            None => assert!(server.delete("Node", "", &node.name)),
        }
        eventually_equals(&format!("health of the {what} node"), (503, false), || code("/healthz"));
        assert_eq!(code("/livez"), (200, false), "{what}");
        server.apply(node_object(&node, json!([])));
        eventually_equals("health of the node", (200, true), || code("/healthz"));
    }
}

/// The lists of an agent that starts beside pins decide nothing that is in force already.
#[test]
fn restarted_agent_goes_on_with_the_pinned_state_while_the_api_server_does_not_answer() {
    let topology = Topology::new();
    let node = topology.node(1);
    let server = outside(&topology, &node);
    server.apply(json!({
        "kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "default"},
    }));
    let mut agent = Some(self::agent(&node));
    let (web, client) = (node.pod("default/web"), node.pod("default/client"));
    let damaged = node.pod("default/damaged");
    let _web = web.serve("web", &["tcp:8080"]);
    service(&server, "web", "10.96.8.8");
    server.apply(json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
        "metadata": {"namespace": "default", "name": "web",
            "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [web.address], "conditions": {"ready": true}}],
    }));
    let vip = "10.96.8.8:80";
    let packets = client.without_socket_programs();
    for host in [&*client, &packets] {
        eventually("the Service", || host.connect("tcp", vip));
    }
    let frontends = || {
        let mut rows = dataplane::entries::<FrontendKey, Frontend>(&node, map::FRONTENDS);
        rows.sort_by_key(|(key, _)| *key);
        rows
    };
    let before = (dataplane::node_config(&node), frontends());
    for (number, fault) in [Fault::Silent, Fault::Down].into_iter().enumerate() {
        let held =
            [("socket programs", client.hold("connect", vip)), ("tc", packets.hold("tcp", vip))];
        agent.take().unwrap().kill();
        server.set_fault(fault);
        // What other programs may do while no agent runs, and while one does not know its Node.
        dataplane::detach(&node, damaged.host_device());
        dataplane::delete_local_pod(&node, damaged.address);
        node.namespaces.run(|| fs::remove_file(BIN_FILE).unwrap());
        let restarted = start(&node);
        let has_programs = || dataplane::programs(&node, damaged.host_device()).0 == ["from_pod"];
        eventually_equals("programs of the pod", true, has_programs);
        eventually_equals("row of the pod", true, || {
            dataplane::local_pod(&node, damaged.address).is_some()
        });
        eventually_equals("CNI binary", true, || node.exists(BIN_FILE));
        dataplane::detach(&node, damaged.host_device());
        eventually_equals("programs of the pod, again", true, has_programs);

        let late = node.pod(&format!("default/late-{number}"));
        let hosts = [late.both_paths(), damaged.both_paths(), client.both_paths()];
        for (what, host) in hosts.into_iter().flatten() {
            assert!(host.connect("tcp", vip).is_ok(), "{what}, {fault:?}");
        }
        node.cni("DEL", &late.sandbox).ok();
        assert_eq!((dataplane::node_config(&node), frontends()), before, "{fault:?}");
        assert!(node.exists(CONF_FILE));
        // It is not ready: it does not know what has changed.
        let response = restarted.get("/readyz").unwrap();
        assert!(response.starts_with("HTTP/1.1 503"), "{fault:?}: {response}");
        let (success, status) = node.try_sluice(&["status"]);
        assert!(
            !success && status.contains("not every kind of object has been listed"),
            "{status}"
        );
        for (what, client) in held {
            let held: HoldReport = client.finish();
            assert!(held.errors.is_empty() && held.longest_ms < 900, "{what}: {held:?}");
        }

        restarted.kill();
        server.set_fault(Fault::None);
        agent = Some(self::agent(&node));
        assert_eq!((dataplane::node_config(&node), frontends()), before, "{fault:?}");
    }
}
