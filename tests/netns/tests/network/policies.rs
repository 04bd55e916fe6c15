//! NetworkPolicies: who reaches whom by which address, from the first packet on, and what becomes of
//! open connections when something changes.

use std::net::Ipv4Addr;
use std::time::Duration;

use netns_tests::manifest::{namespace, pod_with_labels, service_with};
use netns_tests::peer::HoldReport;
use netns_tests::{Host, Node, OUTSIDE, Pod, Topology, TopologyOptions, dataplane, eventually};
use sluice_abi::DropReason;

use crate::reach::{Check, all_reach, ask, ask_within, reaches};
use crate::{TwoNodes, two_nodes_with_cluster_routes};

/// Less than the time after which a dropped SYN is repeated, except in an emulator, which scales it.
const FIRST: Duration = Duration::from_millis(900);
const VIP: &str = "10.96.9.9";
const PORTS: [&str; 1] = ["tcp:80->8080"];

/// `server` receives TCP 8080 from pods with the role `web` of its namespace.
pub const FROM_WEB: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from-web, namespace: default}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{podSelector: {matchLabels: {role: web}}}]
    ports: [{port: 8080}]
";

/// Nothing is received and sent in a namespace.
pub fn deny_all(namespace: &str) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: deny-all, namespace: {namespace}}}
spec: {{podSelector: {{}}, policyTypes: [Ingress, Egress]}}
"
    )
}

/// A server and its clients on both nodes; `roles` of the clients are in their manifests.
struct Shop {
    t: TwoNodes,
    server: Pod,
    near: Pod,
    far: Pod,
    _process: netns_tests::Server,
}

fn shop() -> Shop {
    // The routes lead the host outside to pods.
    let t = two_nodes_with_cluster_routes();
    t.topology.apply("ns", &namespace("default", &[("team", "shop")]));
    let server = t.a.pod("default/server");
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let process = server.serve("server", &["tcp:8080", "tcp:9090"]);
    t.topology.apply("server", &pod_with_labels(&server, &[("app", "server")]));
    t.topology.apply("near", &pod_with_labels(&near, &[("role", "web")]));
    t.topology.apply("far", &pod_with_labels(&far, &[("role", "web")]));
    t.topology.apply("service", &service_with("server", VIP, &PORTS, &[&server]));
    Shop { t, server, near, far, _process: process }
}

/// CONTRACT 8.1, 8.3, 8.5, 8.9, 8.11, 8.17.
#[test]
fn a_policy_holds_on_every_path_and_follows_labels() {
    let shop = shop();
    let (direct, service) = (shop.server.at(8080), format!("{VIP}:80"));
    let other_port = shop.server.at(9090);
    let t = &shop.t;
    for (what, client) in [("near", &shop.near), ("far", &shop.far)] {
        reaches(what, client, &service, true);
    }
    t.topology.apply("policy", FROM_WEB);
    let all = |near: bool, far: bool| {
        let of_pod = |name: &str, pod: &Pod, expected: bool| {
            pod.both_paths().map(|(path, client)| (format!("{name} by {path}"), client, expected))
        };
        let pods = [of_pod("near", &shop.near, near), of_pod("far", &shop.far, far)].concat();
        let of_pods = pods.iter().flat_map(|(what, client, expected)| {
            [&direct, &service].map(|to| (what.as_str(), client, to.as_str(), *expected))
        });
        // Another port, the node of the pod, the other node, the host outside.
        let others: [Check<'_>; 5] = [
            ("near", &shop.near, &other_port, false),
            ("its node", &t.a, &direct, true),
            ("its node", &t.a, &other_port, true),
            ("the other node", &t.b, &direct, false),
            ("outside", &t.topology.outside, &direct, false),
        ];
        all_reach(&of_pods.chain(others).collect::<Vec<_>>());
    };
    all(true, true);
    t.topology.apply("near", &pod_with_labels(&shop.near, &[("role", "batch")]));
    all(false, true);
    t.topology.apply("far", &pod_with_labels(&shop.far, &[]));
    t.topology.apply("near", &pod_with_labels(&shop.near, &[("role", "web")]));
    all(true, false);
    // Without the policy, everybody reaches it.
    t.topology.delete("policy");
    for (what, client) in
        [("near", &*shop.near), ("far", &*shop.far), ("outside", &t.topology.outside)]
    {
        reaches(what, client, &shop.server.at(9090), true);
    }
    assert!(dataplane::dropped(&t.a, DropReason::PolicyIngress) > 0);
    assert_eq!(dataplane::dropped(&t.a, DropReason::PolicyEgress), 0);
}

/// CONTRACT 8.5, 8.8, 8.10: blocks match pods, nodes and hosts outside, by the address of the client.
#[test]
fn blocks_and_namespaces_select_peers() {
    let shop = shop();
    let t = &shop.t;
    t.topology.apply("ns-lab", &namespace("lab", &[("team", "lab")]));
    let lab = t.b.pod("lab/probe");
    t.topology.apply("lab", &pod_with_labels(&lab, &[("role", "web")]));
    let policy = |from: &str| {
        t.topology.apply(
            "policy",
            &format!(
                "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: peers, namespace: default}}
spec:
  podSelector: {{matchLabels: {{app: server}}}}
  ingress: [{{from: {from}}}]
"
            ),
        );
    };
    let to = shop.server.at(8080);
    let outside = &t.topology.outside;
    let check = |near: bool, lab_pod: bool, node: bool, host: bool| {
        all_reach(&[
            ("near", &shop.near, &to, near),
            ("lab", &lab, &to, lab_pod),
            ("the other node", &t.b, &to, node),
            ("outside", outside, &to, host),
        ]);
    };
    policy("[{podSelector: {}}]");
    check(true, false, false, false);
    policy("[{namespaceSelector: {matchLabels: {team: lab}}}]");
    check(false, true, false, false);
    t.topology.apply("ns-lab", &namespace("lab", &[("team", "none")]));
    check(false, false, false, false);
    policy("[{namespaceSelector: {}, podSelector: {matchLabels: {role: web}}}]");
    check(true, true, false, false);
    policy("[{ipBlock: {cidr: 203.0.113.0/24}}]");
    check(false, false, false, true);
    policy("[{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.8/29]}}]");
    check(false, false, false, false);
    policy(&format!(
        "[{{ipBlock: {{cidr: {}/32}}}}, {{ipBlock: {{cidr: {}/32}}}}]",
        t.b.address, lab.address
    ));
    check(false, true, true, false);
    policy("[{ipBlock: {cidr: 0.0.0.0/0, except: [10.244.0.0/16]}}]");
    check(false, false, true, true);
}

/// CONTRACT 8.13: a removed allow ends open connections in both directions, a first policy none that it
/// allows.
#[test]
fn open_connections_follow_the_policies() {
    let shop = shop();
    let t = &shop.t;
    let to = shop.server.at(8080);
    for client in [&*shop.near, &*shop.far] {
        reaches("before the policy", client, &to, true);
        reaches("before the policy", client, &format!("{VIP}:80"), true);
    }
    let kept = [shop.near.hold("tcp", &to), shop.far.hold("tcp", &format!("{VIP}:80"))];
    t.topology.apply("policy", FROM_WEB);
    let other_port = shop.server.at(9090);
    all_reach(&[("near", &shop.near, &other_port, false), ("far", &shop.far, &other_port, false)]);
    for connection in kept {
        let report: HoldReport = connection.finish();
        assert!(report.errors.is_empty(), "{report:?}");
    }
    let limit = Duration::from_secs(3);
    let ended = [&shop.near, &shop.far].map(|client| client.hold_within("tcp", &to, limit));
    // Only labels move: no rule changes.
    t.topology.apply("near", &pod_with_labels(&shop.near, &[]));
    t.topology.apply("far", &pod_with_labels(&shop.far, &[]));
    for mut connection in ended {
        eventually("the connection ends", || {
            if connection.is_running() { Err("it goes on".to_owned()) } else { Ok(()) }
        });
        let report: HoldReport = connection.finish();
        assert_eq!(report.errors.len(), 1, "{report:?}");
    }
}

/// CONTRACT 8.16: closed from the first packet if a policy may select the pod, open if none can, with and
/// without an agent.
#[test]
fn a_new_pod_is_closed_or_open_from_its_first_packet() {
    let topology = Topology::new();
    let node = topology.node(1);
    topology.apply("ns-open", &namespace("open", &[]));
    topology.apply("ns-closed", &namespace("closed", &[]));
    topology.apply("policy", &deny_all("closed"));
    let agent = node.agent();
    let server = node.pod("open/server");
    let _process = server.serve("server", &["tcp:8080"]);
    topology.apply("server", &pod_with_labels(&server, &[]));
    let to = server.at(8080);
    // At once, before the agent knows the pods.
    assert_eq!(ask_within(FIRST, &node.pod("open/first"), &to).as_deref(), Ok("server"));
    assert!(ask(&node.pod("closed/first"), &to).is_err());
    agent.kill();
    assert_eq!(ask_within(FIRST, &node.pod("open/second"), &to).as_deref(), Ok("server"));
    let closed = node.pod("closed/second");
    assert!(ask(&closed, &to).is_err());
    let pending = dataplane::dropped(&node, DropReason::PolicyPending);
    assert!(pending > 0, "dropped because the policies are not known");
    // What no policy selects any more opens with the next agent; the pod that is there keeps its row.
    topology.delete("policy");
    let _agent = node.agent();
    reaches("closed", &closed, &to, true);
}

/// Policies hold while the agent restarts, and change nothing for what they allow.
#[test]
fn policies_hold_without_an_agent_and_over_its_restart() {
    let routes = TopologyOptions { cluster_routes: true, ..TopologyOptions::default() };
    let topology = Topology::with(routes);
    let node = topology.node(1);
    let mut agent = Some(node.agent());
    topology.apply("ns", &namespace("default", &[]));
    topology.apply("policy", FROM_WEB);
    let (server, near) = (node.pod("default/server"), node.pod("default/near"));
    let _process = server.serve("server", &["tcp:8080"]);
    topology.apply("server", &pod_with_labels(&server, &[("app", "server")]));
    topology.apply("near", &pod_with_labels(&near, &[("role", "web")]));
    let to = server.at(8080);
    reaches("outside", &topology.outside, &to, false);
    // It would reach the pod.
    let open = node.pod("default/open");
    let _open_process = open.serve("open", &["tcp:8080"]);
    topology.apply("open", &pod_with_labels(&open, &[]));
    reaches("outside", &topology.outside, &open.at(8080), true);
    reaches("near", &near, &to, true);
    let allowed = [near.hold("connect", &to), near.hold("tcp", &to)];
    let pending = dataplane::dropped(&node, DropReason::PolicyPending);
    for _ in 0..3 {
        agent.take().expect("an agent").kill();
        assert!(ask(&topology.outside, &to).is_err());
        agent = Some(node.agent());
        assert!(ask(&topology.outside, &to).is_err());
    }
    for connection in allowed {
        let report: HoldReport = connection.finish();
        assert!(report.errors.is_empty(), "{report:?}");
    }
    assert_eq!(dataplane::dropped(&node, DropReason::PolicyPending), pending);
}

/// `client` sends to its node only.
fn to_node_only(node: &Node) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: node-only, namespace: default}}
spec:
  podSelector: {{matchLabels: {{app: client}}}}
  policyTypes: [Egress]
  egress: [{{to: [{{ipBlock: {{cidr: {}/32}}}}]}}]
",
        node.address
    )
}

/// A node that follows source routes forwards nothing that policies deny.
#[test]
fn source_routes_by_the_node_do_not_lead_around_policies() {
    let topology = Topology::new();
    let node = topology.node(1);
    let _agent = node.agent();
    topology.apply("ns", &namespace("default", &[]));
    let (client, server) = (node.pod("default/client"), node.pod("default/server"));
    topology.apply("client", &pod_with_labels(&client, &[("app", "client")]));
    topology.apply("server", &pod_with_labels(&server, &[("app", "server")]));
    // Both have to be set; a pod can change neither.
    for device in ["all", client.host_device()] {
        node.sysctl(&format!("net/ipv4/conf/{device}/accept_source_route"), "1");
    }
    let from = client.address.to_string();
    // The router, like every other host, refuses source routes.
    let router = Host::of(topology.router());
    let targets = [(&router, OUTSIDE), (&*server, server.address)];
    let arrives = |(host, to): &(&Host, Ipv4Addr), expected: bool| {
        // Another flow: what the stack forwards is judged by the client's policies when it begins.
        let by = format!("{}:{}", node.address, if expected { 7777 } else { 7778 });
        let reason = if expected { "not denied" } else { "denied" };
        let before = dataplane::dropped(&node, DropReason::PolicyEgress);
        eventually(&format!("a datagram to {to}, {reason}"), || {
            let capture = host.capture("eth0", &topology.capture_file(&to.to_string()));
            client.send_routed(&from, &by, &to.to_string());
            let dropped = dataplane::dropped(&node, DropReason::PolicyEgress) > before;
            let packets = capture.finish();
            let octets = to.octets();
            let received = packets.iter().any(|packet| packet.get(16..20) == Some(&octets));
            if (received, dropped) == (expected, !expected) {
                Ok(())
            } else {
                Err(format!("received: {received}, dropped: {dropped}"))
            }
        });
    };
    targets.iter().for_each(|target| arrives(target, true));
    topology.apply("policy", &to_node_only(&node));
    reaches("client", &client, &server.at(9), false);
    targets.iter().for_each(|target| arrives(target, false));
}

/// `sluice policy` and `sluice drops` name policies, pods and the nearest rule.
#[test]
fn commands_name_what_policies_allow_and_drop() {
    let shop = shop();
    let t = &shop.t;
    t.topology.apply("policy", FROM_WEB);
    t.topology.apply("near", &pod_with_labels(&shop.near, &[("role", "batch")]));
    let to = shop.server.at(8080);
    reaches("near", &shop.near, &to, false);
    reaches("far", &shop.far, &to, true);
    let list = t.a.sluice(&["policy", "list"]);
    assert!(list.contains("from-web"), "{list}");
    let explain = |from: &Pod| {
        let from = from.address.to_string();
        let pod = ["policy", "explain", "default/server", "-o", "json"];
        let text = t.a.sluice(&[&pod[..], &["--from", &from, "--port", "8080"]].concat());
        let row: serde_json::Value = serde_json::from_str(&text).unwrap();
        row["flow"]["judged"][0]["verdict"].clone()
    };
    let (denied, allowed) = (explain(&shop.near), explain(&shop.far));
    let reason = "default/from-web allows TCP 8080 from role=web; the client has role=batch";
    let ends = |row: &serde_json::Value| (row["allowed"].clone(), row["peers"][0].clone());
    assert_eq!(ends(&denied), (false.into(), "default/near".into()), "{denied}");
    assert_eq!(denied["reasons"], serde_json::json!([reason]));
    assert_eq!(ends(&allowed), (true.into(), "default/far".into()), "{allowed}");
    assert_eq!(allowed["rule"], serde_json::json!({"policy": "default/from-web", "rule": 0}));
    let place = format!("from_pod of {}, 74 bytes", shop.near.host_device());
    let pods = ["default/near", "role=batch"];
    let words = [&["policy_ingress", &place, "default/from-web", "role=web"][..], &pods].concat();
    eventually("the drop is explained", || {
        // Drops of the first request can be of replies or of data, if the policy came in between.
        assert!(ask(&shop.near, &to).is_err());
        let text = t.a.sluice(&["drops", "default/server"]);
        match words.iter().find(|words| !text.contains(**words)) {
            None => Ok(()),
            Some(words) => Err(format!("{words}: {text}")),
        }
    });
}

/// `sluice conntrack --policy` on each node names what allows its end of a flow.
#[test]
fn conntrack_names_the_rule_that_allows_a_flow() {
    let shop = shop();
    let t = &shop.t;
    t.topology.apply("policy", FROM_WEB);
    reaches("near", &shop.near, &shop.server.at(9090), false);
    for client in [&shop.near, &shop.far] {
        reaches("client", &client.without_socket_programs(), &format!("{VIP}:80"), true);
    }
    let client = |pod: &Pod| format!("{}:", pod.address);
    let flow = |node: &Node, pod: &Pod, to: &str| {
        let text = node.sluice(&["conntrack", "--policy", "-o", "json"]);
        let flows: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let of_client = |flow: &&serde_json::Value| {
            let [source, destination] = ["source", "destination"].map(|end| flow[end].as_str());
            source.is_some_and(|source| source.starts_with(&client(pod))) && destination == Some(to)
        };
        flows.iter().find(of_client).unwrap_or_else(|| panic!("no flow in {text}")).clone()
    };
    let rule = serde_json::json!({"policy": "default/from-web", "rule": 0});
    let near = flow(&t.a, &shop.near, &format!("{VIP}:80"));
    assert_eq!(near["ingress"]["verdict"]["rule"], rule, "{near}");
    assert_eq!(near["egress"]["pod"], "default/near", "{near}");
    assert_eq!(near["egress"]["verdict"]["allowed"], true, "{near}");
    // Each agent explains only the pods of its own node. On the server's node the destination of the flow is
    // already the pod.
    let (service, direct) = (format!("{VIP}:80"), shop.server.at(8080));
    let at_client = flow(&t.b, &shop.far, &service);
    let at_server = flow(&t.a, &shop.far, &direct);
    let ends = |flow: &serde_json::Value| ["egress", "ingress"].map(|end| flow.get(end).is_some());
    assert_eq!(ends(&at_client), [true, false], "{at_client}");
    let text = t.a.sluice(&["conntrack", "--policy", "--address", &shop.near.address.to_string()]);
    assert!(text.contains("default/from-web[0]") && text.contains("not isolated"), "{text}");
    assert_eq!(ends(&at_server), [false, true], "{at_server}");
    assert_eq!(at_server["ingress"]["verdict"]["rule"], rule, "{at_server}");
}
