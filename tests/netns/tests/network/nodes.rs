//! Nodes come and go; their own network changes; the runtime's files are looked after.

use std::fs;
use std::path::Path;

use netns_tests::{Agent, Node, OUTSIDE, World, eventually, ip, ip_json};

use crate::two;

const CONF: &str = "/run/cni/net.d/10-sluice.conflist";
const BINARY: &str = "/run/cni/bin/sluice";

fn there(node: &Node, path: &str) -> bool {
    node.spaces.run(|| Path::new(path).exists())
}

/// Destinations of the routes to other nodes' pods.
fn routes(node: &Node) -> Vec<String> {
    let routes = ip_json(&node.spaces, "route show proto 83");
    let mut to: Vec<String> = routes
        .iter()
        .filter(|r| r["gateway"].is_string())
        .map(|r| r["dst"].as_str().unwrap().to_owned())
        .collect();
    to.sort();
    to
}

#[test]
fn nodes_that_join_and_leave_are_followed() {
    let t = two();
    let near = t.a.pod("default/near");
    assert_eq!(routes(&t.a), ["10.244.2.0/24"]);
    let c = t.world.node(3);
    let _agent = c.agent();
    let far = c.pod("default/far");
    let _server = far.serve("far", &["tcp:80"]);
    let (answer, _) = eventually("the new node's pod", || near.ask("tcp", &far.at(80)));
    assert_eq!(answer.client.ip(), near.address, "not masqueraded");
    assert_eq!(routes(&t.a), ["10.244.2.0/24", "10.244.3.0/24"]);
    t.world.delete("node3");
    eventually("the route of the node that left is gone", || match routes(&t.a) {
        left if left == ["10.244.2.0/24"] => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn routes_that_somebody_removes_come_back() {
    let t = two();
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let _server = far.serve("far", &["tcp:80"]);
    assert!(near.ask("tcp", &far.at(80)).is_ok());
    ip(&t.a.spaces, "route flush proto 83 root 10.244.2.0/24");
    eventually("the route is back", || match routes(&t.a) {
        back if back == ["10.244.2.0/24"] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // A route of somebody else is not ours to touch.
    ip(&t.a.spaces, "route add 10.200.0.0/16 via 172.30.0.1");
    ip(&t.a.spaces, "route del 10.244.2.0/24");
    eventually("the route is back", || near.ask("tcp", &far.at(80)));
    assert_eq!(ip_json(&t.a.spaces, "route show 10.200.0.0/16").len(), 1);
}

#[test]
fn the_node_is_ready_only_when_its_pods_can_be_wired() {
    let world = World::new();
    let node = world.node(1);
    // The API knows the node, but gives it no addresses for pods yet.
    let yaml = "
apiVersion: v1
kind: Node
metadata: {name: node1}
status: {addresses: [{type: InternalIP, address: 172.30.0.11}]}
";
    world.apply("node1", yaml);
    let mut agent = node.agent_not_ready();
    agent.log_says("no IPv4 podCIDR");
    assert!(!there(&node, CONF));
    world.apply("node1", &netns_tests::manifest::node(&node));
    agent.ready();
    eventually("the configuration", || {
        if there(&node, CONF) { Ok(()) } else { Err("none") }.map_err(str::to_owned)
    });
    let conf = node.config();
    assert_eq!(
        (conf["type"].as_str(), conf["subnet"].as_str()),
        (Some("sluice"), Some("10.244.1.0/24"))
    );
    let names: Vec<_> = node
        .spaces
        .run(|| fs::read_dir("/run/cni/net.d").unwrap().flatten().map(|e| e.file_name()).collect());
    assert_eq!(names, ["10-sluice.conflist"], "no half-written files stay");
}

#[test]
fn the_runtimes_files_are_put_back() {
    let world = World::new();
    let node = world.node(1);
    let _agent: Agent = node.agent();
    for path in [CONF, BINARY] {
        node.spaces.run(|| fs::remove_file(path).unwrap());
        eventually(path, || if there(&node, path) { Ok(()) } else { Err("gone".to_owned()) });
    }
    node.spaces.run(|| fs::write(BINARY, "half").unwrap());
    eventually("a binary that was cut short", || {
        let length = node.spaces.run(|| fs::metadata(BINARY).map_or(0, |m| m.len()));
        if length > 100_000 { Ok(()) } else { Err(format!("{length} bytes")) }
    });
    let pod = node.pod("default/web");
    assert!(node.ask("tcp", &pod.at(9)).is_err_and(|e| e == "ConnectionRefused"));
}

#[test]
fn the_uplinks_mtu_is_followed() {
    let world = World::new();
    let node = world.node(1);
    let _agent = node.agent();
    let old = node.pod("default/old");
    let mtu = |pod: &netns_tests::Pod| {
        ip_json(&pod.sandbox.spaces, "link show dev eth0")[0]["mtu"].as_u64().unwrap()
    };
    assert_eq!(mtu(&old), 1500);
    ip(&node.spaces, "link set eth0 mtu 1300");
    eventually("the configuration says 1300", || match node.config()["mtu"].as_u64() {
        Some(1300) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(mtu(&node.pod("default/new")), 1300);
    eventually("the pod that runs has it too", || match mtu(&old) {
        1300 => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn a_node_that_gets_another_address_goes_on() {
    let mut t = two();
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let _servers = [
        near.serve("near", &["tcp:80"]),
        far.serve("far", &["tcp:80"]),
        t.world.outside.serve("outside", &["tcp:80"]),
    ];
    let outside = format!("{OUTSIDE}:80");
    assert_eq!(near.ask("tcp", &outside).unwrap().0.client.ip(), t.a.address);
    // What happens to kind's nodes when Docker starts again.
    ip(&t.a.spaces, "addr flush dev eth0");
    ip(&t.a.spaces, "addr add 172.30.0.99/24 dev eth0");
    ip(&t.a.spaces, "route add default via 172.30.0.1");
    t.a.address = "172.30.0.99".parse().unwrap();
    t.world.apply("node1", &netns_tests::manifest::node(&t.a));
    eventually("masqueraded with the new address", || match near.ask("tcp", &outside) {
        Ok((answer, _)) if answer.client.ip() == t.a.address => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually("to the other node's pod", || near.ask("tcp", &far.at(80)));
    eventually("from the other node's pod", || far.ask("tcp", &near.at(80)));
    let (answer, _) = far.ask("tcp", &near.at(80)).unwrap();
    assert_eq!(answer.client.ip(), far.address);
}

#[test]
fn an_agent_without_bpffs_says_so_and_ends() {
    let world = World::new();
    let node = world.node(1);
    node.without_bpffs();
    let agent = node.agent_not_ready();
    agent.log_says("this node lacks: bpffs at /sys/fs/bpf");
    assert!(!there(&node, CONF));
}
