//! Nodes that join and leave, changes of a node's own network, and the files of the runtime.

use std::fs;

use netns_tests::{
    Agent, BIN_FILE, CONF_FILE, Host, Node, OUTSIDE, Pod, Server, Topology, eventually,
    eventually_equals, ip, ip_json,
};

use crate::{TwoNodes, two_nodes, two_nodes_with_cluster_routes};

/// A pod of each node, and the address of a server outside. All serve TCP port 80.
struct Ends {
    near: Pod,
    far: Pod,
    outside: String,
    _servers: [Server; 3],
}

fn ends(t: &TwoNodes) -> Ends {
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let serve = |host: &Host, name| host.serve(name, &["tcp:80"]);
    let servers = [serve(&near, "near"), serve(&far, "far"), serve(&t.topology.outside, "outside")];
    Ends { near, far, outside: format!("{OUTSIDE}:80"), _servers: servers }
}

/// Destinations of the routes to other nodes' pods.
fn routes(node: &Node) -> Vec<String> {
    let routes = ip_json(&node.namespaces, "route show proto 83");
    let mut to: Vec<String> = routes
        .iter()
        .filter(|r| r["gateway"].is_string())
        .map(|r| r["dst"].as_str().unwrap().to_owned())
        .collect();
    to.sort();
    to
}

#[test]
fn routes_follow_nodes_that_join_and_leave() {
    let t = two_nodes_with_cluster_routes();
    let near = t.a.pod("default/near");
    assert_eq!(routes(&t.a), ["10.244.2.0/24"]);
    let c = t.topology.node(3);
    let _agent = c.agent();
    let far = c.pod("default/far");
    let _server = far.serve("far", &["tcp:80"]);
    eventually("the new node's pod, not masqueraded", || match near.connect("tcp", &far.at(80)) {
        Ok((response, _)) if response.client.ip() == near.address => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(routes(&t.a), ["10.244.2.0/24", "10.244.3.0/24"]);
    t.topology.delete("node3");
    eventually_equals("routes", vec!["10.244.2.0/24".to_owned()], || routes(&t.a));
    // The range of the removed node is not a pod range anymore: masqueraded like any other.
    eventually("masqueraded", || match near.connect("tcp", &far.at(80)) {
        Ok((response, _)) if response.client.ip() == t.a.address => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn removed_routes_are_restored_and_other_routes_are_kept() {
    let t = two_nodes();
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let _server = far.serve("far", &["tcp:80"]);
    assert!(near.connect("tcp", &far.at(80)).is_ok());
    ip(&t.a.namespaces, "route flush proto 83 root 10.244.2.0/24");
    eventually_equals("routes", vec!["10.244.2.0/24".to_owned()], || routes(&t.a));
    // A route of another owner.
    ip(&t.a.namespaces, "route add 10.200.0.0/16 via 172.30.0.1");
    ip(&t.a.namespaces, "route del 10.244.2.0/24");
    eventually("the route is restored", || near.connect("tcp", &far.at(80)));
    assert_eq!(ip_json(&t.a.namespaces, "route show 10.200.0.0/16").len(), 1);
}

#[test]
fn node_is_ready_only_when_pods_can_get_an_interface() {
    let topology = Topology::new();
    let node = topology.node(1);
    // The Node exists but has no podCIDR yet.
    let yaml = "
apiVersion: v1
kind: Node
metadata: {name: node1}
status: {addresses: [{type: InternalIP, address: 172.30.0.11}]}
";
    topology.apply("node1", yaml);
    let mut agent = node.agent_not_ready(&[]);
    agent.wait_log("podCIDR");
    assert!(!node.exists(CONF_FILE));
    topology.apply("node1", &netns_tests::manifest::node(&node));
    agent.wait_ready();
    eventually_equals(CONF_FILE, true, || node.exists(CONF_FILE));
    let conf = node.config();
    assert_eq!(
        (conf["type"].as_str(), conf["subnet"].as_str()),
        (Some("sluice"), Some("10.244.1.0/24"))
    );
    let names: Vec<_> = node
        .namespaces
        .run(|| fs::read_dir("/run/cni/net.d").unwrap().flatten().map(|e| e.file_name()).collect());
    assert_eq!(names, ["05-sluice.conflist"], "temporary files are removed");
}

#[test]
fn removed_and_damaged_files_of_the_runtime_are_restored() {
    let topology = Topology::new();
    let node = topology.node(1);
    let _agent: Agent = node.agent();
    for path in [CONF_FILE, BIN_FILE] {
        node.namespaces.run(|| fs::remove_file(path).unwrap());
        eventually_equals(path, true, || node.exists(path));
    }
    node.namespaces.run(|| fs::write(BIN_FILE, "half").unwrap());
    eventually("the truncated binary is restored", || {
        let length = node.namespaces.run(|| fs::metadata(BIN_FILE).map_or(0, |m| m.len()));
        if length > 100_000 { Ok(()) } else { Err(format!("{length} bytes")) }
    });
    let pod = node.pod("default/web");
    assert!(node.connect("tcp", &pod.at(9)).is_err_and(|e| e == "ConnectionRefused"));
}

#[test]
fn pods_follow_the_mtu_of_the_uplink() {
    let topology = Topology::new();
    let node = topology.node(1);
    let _agent = node.agent();
    let old = node.pod("default/old");
    let mtu = |pod: &Pod| {
        ip_json(&pod.sandbox.namespaces, "link show dev eth0")[0]["mtu"].as_u64().unwrap()
    };
    assert_eq!(mtu(&old), 1500);
    ip(&node.namespaces, "link set eth0 mtu 1300");
    eventually_equals("MTU in the configuration", Some(1300), || node.config()["mtu"].as_u64());
    assert_eq!(mtu(&node.pod("default/new")), 1300);
    eventually_equals("MTU of the running pod", 1300, || mtu(&old));
}

#[test]
fn node_with_a_new_address_keeps_its_connectivity() {
    let mut t = two_nodes();
    let ends = ends(&t);
    let (near, far, outside) = (&ends.near, &ends.far, &ends.outside);
    assert_eq!(near.connect("tcp", outside).unwrap().0.client.ip(), t.a.address);
    // As after a restart of Docker, with kind.
    ip(&t.a.namespaces, "addr flush dev eth0");
    ip(&t.a.namespaces, "addr add 172.30.0.99/24 dev eth0");
    ip(&t.a.namespaces, "route add default via 172.30.0.1");
    t.a.address = "172.30.0.99".parse().unwrap();
    t.topology.apply("node1", &netns_tests::manifest::node(&t.a));
    eventually("masqueraded with the new address", || match near.connect("tcp", outside) {
        Ok((response, _)) if response.client.ip() == t.a.address => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually("to the other node's pod", || near.connect("tcp", &far.at(80)));
    eventually("from the other node's pod", || far.connect("tcp", &near.at(80)));
    let (response, _) = far.connect("tcp", &near.at(80)).unwrap();
    assert_eq!(response.client.ip(), far.address);
}

/// As after a restart of Docker that starts the nodes in another order.
#[test]
fn nodes_that_swap_their_addresses_keep_their_connectivity() {
    let mut t = two_nodes();
    let ends = ends(&t);
    let (near, far, outside) = (&ends.near, &ends.far, &ends.outside);
    let (first, second) = (t.a.address, t.b.address);
    assert_eq!(near.connect("tcp", &far.at(80)).unwrap().0.client.ip(), near.address);
    for (node, address) in [(&mut t.a, second), (&mut t.b, first)] {
        ip(&node.namespaces, "addr flush dev eth0");
        ip(&node.namespaces, &format!("addr add {address}/24 dev eth0"));
        ip(&node.namespaces, "route add default via 172.30.0.1");
        // The hardware addresses are those of before: what others know about them is wrong.
        ip(&node.namespaces, "neigh flush dev eth0");
        node.address = address;
    }
    ip(t.topology.router(), "neigh flush all");
    for node in [&t.a, &t.b] {
        t.topology.apply(&node.name, &netns_tests::manifest::node(node));
    }
    for (pod, node, other) in [(near, &t.a, far), (far, &t.b, near)] {
        eventually("masqueraded with the new address", || match pod.connect("tcp", outside) {
            Ok((response, _)) if response.client.ip() == node.address => Ok(()),
            other => Err(format!("{other:?}")),
        });
        eventually("to the other node's pod", || match pod.connect("tcp", &other.at(80)) {
            Ok((response, _)) if response.client.ip() == pod.address => Ok(()),
            other => Err(format!("{other:?}")),
        });
        eventually("from the other node", || match pod.at(80) {
            at if node.name == t.a.name => t.b.connect("tcp", &at),
            at => t.a.connect("tcp", &at),
        });
    }
}

/// An address that is not known as the node's would be masqueraded and sent to the uplink.
#[test]
fn pods_reach_a_new_address_of_their_node_untranslated() {
    let t = two_nodes();
    let near = t.a.pod("default/near");
    let _server = t.a.serve("node1", &["tcp:80"]);
    ip(&t.a.namespaces, "addr add 198.51.100.7/32 dev lo");
    eventually("the new address", || match near.connect("tcp", "198.51.100.7:80") {
        Ok((response, _)) if response.client.ip() == near.address => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn agent_without_bpffs_reports_it_and_exits() {
    let topology = Topology::new();
    let node = topology.node(1);
    node.unmount_bpffs();
    let mut agent = node.agent_not_ready(&[]);
    agent.wait_exit();
    agent.wait_log("bpffs at /sys/fs/bpf");
    assert!(!node.exists(CONF_FILE));
}
