//! Pods, nodes and the outside reach each other by address.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use cluster_tests::{Namespace, OutsideHost, client_on, docker, server_on, workers};

/// One client and a server on the first worker, a server on the second.
struct Fixture {
    ns: Namespace,
    near: String,
    far: String,
    node: String,
    node_address: String,
    other_node_address: String,
}

fn fixture(subject: &str) -> Fixture {
    let workers = workers();
    let ns = Namespace::new(subject);
    ns.apply(&client_on("client", &workers[0].name, false));
    ns.apply(&server_on("near", "near", &workers[0].name));
    ns.apply(&server_on("far", "far", &workers[1].name));
    ns.ready("client", 1);
    let near = ns.ready("near", 1).remove(0);
    let far = ns.ready("far", 1).remove(0);
    Fixture {
        ns,
        near,
        far,
        node: workers[0].name.clone(),
        node_address: workers[0].address.clone(),
        other_node_address: workers[1].address.clone(),
    }
}

#[test]
fn pods_reach_pods_and_see_each_others_own_address() {
    let f = fixture("pods");
    let own = f.ns.address("client");
    for server in [&f.near, &f.far] {
        let seen =
            f.ns.sh_eventually("client", &format!("curl -sf -m 3 http://{server}:8080/clientip"));
        assert!(seen.starts_with(&format!("{own}:")), "{server} saw {seen}, not {own}");
    }
}

#[test]
fn ping_works_with_fragments_and_to_nodes() {
    let f = fixture("ping");
    for target in [&f.near, &f.far, &f.node_address, &f.other_node_address] {
        for size in ["56", "4000"] {
            f.ns.sh_eventually("client", &format!("ping -c 1 -W 2 -s {size} {target}"));
        }
    }
}

#[test]
fn a_node_reaches_its_own_and_other_pods() {
    let f = fixture("node");
    for server in [&f.near, &f.far] {
        let name = docker(&[
            "exec",
            &f.node,
            "curl",
            "-sf",
            "-m",
            "3",
            &format!("http://{server}:8080/hostname"),
        ]);
        assert!(name.as_deref().is_ok_and(|n| n == "near" || n == "far"), "{server}: {name:?}");
    }
}

#[test]
fn the_outside_sees_the_nodes_address() {
    let f = fixture("outside");
    let outside = OutsideHost::start();
    let tcp = format!("nc -w 3 {} 8080 < /dev/null | grep .", outside.address);
    assert_eq!(f.ns.sh_eventually("client", &tcp), f.node_address);
    let udp = format!("echo x | nc -u -w 2 {} 8080 | grep .", outside.address);
    assert_eq!(f.ns.sh_eventually("client", &udp), f.node_address);
    f.ns.sh_eventually("client", &format!("ping -c 2 -W 2 {}", outside.address));
}

#[test]
fn a_free_address_is_an_error_and_not_a_loop() {
    let f = fixture("free");
    // The last address of the node's range: allocation walks upwards and does not get there here.
    let mut free: Vec<&str> = f.near.split('.').collect();
    free[3] = "254";
    let answer = f.ns.sh("client", &format!("ping -c 1 -W 2 {}", free.join(".")));
    let text = answer.unwrap_err();
    assert!(!text.contains("Time to live exceeded"), "{text}");
    assert!(text.contains("100% packet loss"), "{text}");
}

#[test]
fn a_pod_cannot_send_from_an_address_that_is_not_its_own() {
    let f = fixture("spoof");
    let workers = workers();
    let yaml = client_on("liar", &workers[0].name, false).replace(
        "      image:",
        "      securityContext: {capabilities: {add: [NET_ADMIN]}}\n      image:",
    );
    f.ns.apply(&yaml);
    f.ns.ready("liar", 1);
    let own = f.ns.address("liar");
    f.ns.sh_eventually("liar", &format!("ping -c 1 -W 2 {}", f.near));
    f.ns.sh("liar", "ip addr add 10.99.99.99/32 dev eth0").unwrap();
    let lie = f.ns.sh("liar", &format!("ping -I 10.99.99.99 -c 2 -W 1 {}", f.near));
    assert!(lie.is_err(), "{lie:?}");
    f.ns.sh("liar", &format!("ping -I {own} -c 1 -W 2 {}", f.near)).unwrap();
}
