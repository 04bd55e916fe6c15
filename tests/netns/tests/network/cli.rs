//! The commands of `sluice` on a node, with and without an agent; `cleanup`.

use netns_tests::manifest::service_with;
use netns_tests::{
    BIN_FILE, CONF_FILE, Node, Topology, agents, dataplane, eventually, eventually_equals, ip,
    ip_json,
};
use serde_json::Value;
use sluice_abi::program;
use sluice_bpf::prog_by_id;

const VIP: &str = "10.96.4.4";

fn json(node: &Node, arguments: &[&str]) -> Value {
    let text = node.sluice(&[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
}

#[test]
fn commands_show_services_pods_and_flows_with_and_without_an_agent() {
    let topology = Topology::new();
    let node = topology.node(1);
    let agent = node.agent();
    let pod = node.pod("default/web");
    topology.apply("web", &service_with("web", VIP, &["tcp:80->8080"], &[&pod]));
    let client = node.pod("default/client");
    let _server = pod.serve("web", &["tcp:8080"]);
    eventually("the Service", || {
        client.without_socket_programs().connect("tcp", &format!("{VIP}:80"))
    });

    let mut agent = Some(agent);
    for stopped in [false, true] {
        if stopped {
            agent.take().unwrap().kill();
        }
        let services = json(&node, &["service"]).to_string();
        for word in [VIP, "8080", &pod.address.to_string()] {
            assert!(services.contains(word), "stopped: {stopped}: {word} in {services}");
        }
        let endpoints = json(&node, &["endpoint"]).to_string();
        for word in [pod.address.to_string(), client.address.to_string(), "default/web".into()] {
            assert!(endpoints.contains(&word), "stopped: {stopped}: {word} in {endpoints}");
        }
        let flows = json(&node, &["conntrack"]).to_string();
        assert!(flows.contains(VIP), "stopped: {stopped}: {flows}");
        // `status` exits with 0 if the agent is running and has no problem. Without an agent, a
        // note on standard error follows the object.
        let (success, output) = node.try_sluice(&["status", "-o", "json"]);
        let mut objects = serde_json::Deserializer::from_str(&output).into_iter::<Value>();
        let status = objects.next().unwrap().unwrap();
        assert_eq!((success, &status["agent"]), (!stopped, &Value::Bool(!stopped)), "{status}");
    }
}

/// Everything of Sluice on a node: what `cleanup` has to remove.
fn traces(node: &Node) -> Vec<String> {
    let mut traces = dataplane::socket_programs(node);
    for link in ip_json(&node.namespaces, "link show") {
        let device = link["ifname"].as_str().unwrap();
        if device.starts_with("slc") {
            traces.push(format!("device {device}"));
        }
        let (ingress, egress) = dataplane::programs(node, device);
        traces.extend(ingress.into_iter().chain(egress).map(|name| format!("{name} on {device}")));
        if !link["xdp"].is_null() {
            traces.push(format!("XDP program on {device}"));
        }
    }
    for route in ip_json(&node.namespaces, "route show table all proto 83") {
        traces.push(format!("route {} {}", route["type"], route["dst"]));
    }
    for path in [sluice_abi::pin::ROOT, CONF_FILE, BIN_FILE, "/var/lib/sluice", "/run/sluice"] {
        if node.exists(path) {
            traces.push(path.to_owned());
        }
    }
    traces
}

fn cleanup_flags(cgroup_root: &str) -> Vec<String> {
    let flags = ["cleanup", "--cni-bin-dir=/run/cni/bin", "--cni-conf-dir=/run/cni/net.d"];
    let root = format!("--cgroup-root={cgroup_root}");
    flags.into_iter().map(str::to_owned).chain([root]).collect()
}

#[test]
fn cleanup_removes_programs_pins_routes_and_files() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [agent, _other] = agents([(&a, &["--xdp=generic"]), (&b, &[])]);
    let pod = a.pod("default/web");
    eventually_equals("routes", 3, || {
        traces(&a).iter().filter(|trace| trace.starts_with("route")).count()
    });
    let before = traces(&a);
    // 9 socket programs, an XDP program and 2 tc programs on the uplink and 2 on the pod, the pod's device,
    // 3 routes, pins, 2 files, the directory of leases, lock and socket.
    assert_eq!(before.len(), 22, "{before:?}");
    assert!(before.contains(&"XDP program on eth0".to_owned()), "{before:?}");
    let programs: Vec<u32> =
        program::all().map(|name| dataplane::pins(&a)[name].try_into().unwrap()).collect();
    let loaded = || programs.iter().filter(|id| prog_by_id(**id).is_ok()).count();
    assert_eq!(loaded(), program::all().count());
    // Not Sluice's.
    ip(&a.namespaces, "route add 10.200.0.0/16 via 172.30.0.1");
    let other_conf = "/run/cni/net.d/99-other.conflist";
    a.namespaces.run(|| std::fs::write(other_conf, "{}").unwrap());
    agent.kill();

    let flags = cleanup_flags(&a.cgroup_root().display().to_string());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    for _ in 0..2 {
        a.sluice(&flags);
        assert_eq!(traces(&a), [] as [String; 0]);
        // Nothing refers to them: no pin, no device, no cgroup.
        eventually_equals("programs in the kernel", 0, loaded);
    }
    assert_eq!(ip_json(&a.namespaces, "route show 10.200.0.0/16").len(), 1);
    assert!(a.exists(other_conf));

    // The pod is deleted as usual, and an agent can start again.
    let _again = a.agent();
    a.cni("DEL", &pod.sandbox).ok();
    let pod = a.pod("default/next");
    assert_eq!(dataplane::programs(&a, pod.host_device()).0, ["from_pod"]);
}

/// Without the check, the socket programs would stay attached without an error.
#[test]
fn cleanup_fails_where_the_cgroup_root_is_not_a_cgroup() {
    let topology = Topology::new();
    let node = topology.node(1);
    node.agent().kill();
    let flags = cleanup_flags("/run");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let (success, text) = node.try_sluice(&flags);
    assert!(!success && text.contains("socket programs") && text.contains("/run"), "{text}");
    let left = traces(&node);
    assert_eq!(left, dataplane::socket_programs(&node), "everything else is removed");
    assert_eq!(left.len(), 9, "{left:?}");
}
