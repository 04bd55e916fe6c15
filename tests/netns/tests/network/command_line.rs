//! `sluice` on a node: what it shows with and without an agent, and that `cleanup` leaves nothing.

use netns_tests::manifest::service_with;
use netns_tests::{Node, World, dataplane, eventually, ip_json};
use serde_json::Value;

const VIP: &str = "10.96.4.4";

fn json(node: &Node, arguments: &[&str]) -> Value {
    let text = node.sluice(&[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
}

#[test]
fn what_runs_is_shown_with_and_without_an_agent() {
    let world = World::new();
    let node = world.node(1);
    let agent = node.agent();
    let pod = node.pod("default/web");
    world.apply("web", &service_with("web", VIP, &["tcp:80->8080"], &[&pod]));
    let client = node.pod("default/client");
    let _server = pod.serve("web", &["tcp:8080"]);
    eventually("the Service", || client.without_hooks().ask("tcp", &format!("{VIP}:80")));

    let mut agent = Some(agent);
    for away in [false, true] {
        if away {
            agent.take().unwrap().kill();
        }
        let services = json(&node, &["service"]).to_string();
        for word in [VIP, "8080", &pod.address.to_string()] {
            assert!(services.contains(word), "away: {away}: {word} in {services}");
        }
        let endpoints = json(&node, &["endpoint"]).to_string();
        for word in [pod.address.to_string(), client.address.to_string(), "default/web".into()] {
            assert!(endpoints.contains(&word), "away: {away}: {word} in {endpoints}");
        }
        let flows = json(&node, &["conntrack"]).to_string();
        assert!(flows.contains(VIP), "away: {away}: {flows}");
        // The exit code of `status` says whether all is well.
        let (well, status) = node.try_sluice(&["status", "-o", "json"]);
        let status: Value = serde_json::from_str(&status).unwrap();
        assert_eq!((well, &status["agent"]), (!away, &Value::Bool(!away)), "{status}");
    }
}

#[test]
fn cleanup_leaves_nothing() {
    let world = World::new();
    let (a, b) = (world.node(1), world.node(2));
    let _other = b.agent();
    let agent = a.agent();
    let pod = a.pod("default/web");
    agent.kill();
    let root = a.cgroup_root().display().to_string();
    let flags =
        ["cleanup", "--cni-bin-dir=/run/cni/bin", "--cni-conf-dir=/run/cni/net.d", "--cgroup-root"];
    let all = [&flags[..], &[&root]].concat();
    for _ in 0..2 {
        a.sluice(&all);
        assert_eq!(dataplane::programs(&a, pod.host_device()), (vec![], vec![]));
        assert_eq!(dataplane::programs(&a, "eth0"), (vec![], vec![]));
        let left = ip_json(&a.spaces, "route show proto 83");
        assert!(left.iter().all(|r| r["dev"] == pod.host_device()), "{left:?}");
        for path in
            [sluice_abi::pin::ROOT, "/run/cni/net.d/10-sluice.conflist", "/run/cni/bin/sluice"]
        {
            assert!(a.spaces.run(|| !std::path::Path::new(path).exists()), "{path}");
        }
    }
    // What stays of the pod goes by its DEL, and an agent may come again.
    let _again = a.agent();
    a.cni("DEL", &pod.sandbox).ok();
    let pod = a.pod("default/next");
    assert_eq!(dataplane::programs(&a, pod.host_device()).0, ["from_pod"]);
}
