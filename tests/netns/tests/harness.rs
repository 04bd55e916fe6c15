//! The harness itself: if these tests fail, the results of the other tests do not count.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use netns_tests::manifest::namespace;
use netns_tests::peer::{Echo, HoldReport};
use netns_tests::{
    Cgroup, Host, Node, OUTSIDE, Process, Topology, TopologyOptions, artefacts, command_within,
    dataplane, eventually_equals, output_within, own_program, skip,
};
use serde_json::Value;

#[test]
fn nodes_and_the_outside_host_are_connected() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let _server = b.serve("b", &["tcp:80", "udp:53"]);
    let (response, from) = a.connect("tcp", "172.30.0.12:80").unwrap();
    assert_eq!((response.server.as_str(), response.client.ip()), ("b", a.address.into()));
    assert_eq!(from.to_string(), "172.30.0.12:80");
    let (response, from) = topology.outside.connect("udp", "172.30.0.12:53").unwrap();
    assert_eq!((response.server.as_str(), response.client.ip()), ("b", OUTSIDE.into()));
    assert_eq!(from.to_string(), "172.30.0.12:53");
    assert_eq!(a.connect("tcp", "172.30.0.12:81"), Err("ConnectionRefused".into()));
    assert_eq!(a.ping("172.30.0.12", 4000), Echo::Reply(4000));
    assert_eq!(a.ping("10.1.2.3", 56), Echo::Error(3, 0), "the far router has no route");
    assert_eq!(a.upload("172.30.0.12:80", 1 << 20), Ok(1 << 20));
}

/// Without this the tests of unreachable addresses could not fail.
#[test]
fn packet_that_a_node_sends_back_loops_until_its_ttl_is_exceeded() {
    let topology =
        Topology::with(TopologyOptions { cluster_routes: true, ..TopologyOptions::default() });
    let node = topology.node(1);
    node.sysctl("net/ipv4/ip_forward", "1");
    let free = "10.244.1.200";
    let router = Host::of(topology.router());
    let capture = router.capture("eth0", &topology.capture_file("loop"));
    assert_eq!(topology.outside.ping(free, 56), Echo::Error(11, 0));
    assert!(capture.count_to(free.parse().unwrap()) > 30);
}

#[test]
fn kernel_discovers_the_path_mtu_of_the_narrow_link() {
    let topology =
        Topology::with(TopologyOptions { narrow_link: 1280, ..TopologyOptions::default() });
    let node = topology.node(1);
    let _server = topology.outside.serve("outside", &["tcp:80"]);
    let server = format!("{OUTSIDE}:80");
    assert_eq!(node.download(&server, 1 << 20), Ok(1 << 20));
    assert_eq!(node.upload(&server, 1 << 20), Ok(1 << 20));
}

#[test]
fn held_client_reports_servers_and_errors() {
    let topology = Topology::new();
    let node = topology.node(1);
    let server = topology.outside.serve("outside", &["tcp:80", "udp:53"]);
    let sockets = [("tcp", 80), ("connect", 80), ("udp", 53), ("udp-connected", 53)];
    for (protocol, port) in sockets {
        let report: HoldReport = node.hold(protocol, &format!("{OUTSIDE}:{port}")).finish();
        assert!(report.responses >= 1 && report.errors.is_empty(), "{protocol}: {report:?}");
        assert_eq!(report.servers, ["outside"]);
    }
    // A connected UDP socket is not replaced after a time-out or an ICMP error.
    let limit = Duration::from_secs(2);
    let held = node.hold_within("udp-connected", &format!("{OUTSIDE}:53"), limit);
    drop(server);
    let report: HoldReport = held.finish_after("other");
    assert!(!report.errors.is_empty(), "{report:?}");
    assert!(!report.errors.contains(&"ConnectionAborted".to_owned()), "{report:?}");
}

#[test]
fn each_node_has_its_own_pins_and_nothing_remains() {
    let pins = || fs::read_dir("/sys/fs/bpf").map_or(0, Iterator::count);
    let before = pins();
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    dataplane::load_all(&a, Some(dataplane::SMALL));
    assert_eq!(dataplane::local_pods(&a), 0);
    let programs = |node: &Node| {
        node.namespaces.run(|| fs::read_dir(sluice_abi::pin::PROGRAMS).map_or(0, Iterator::count))
    };
    let all = sluice_abi::program::all().count();
    assert_eq!((programs(&a), programs(&b)), (all, 0));
    assert_eq!(pins(), before, "pins are visible in the mounts of the test");
    let cgroup = a.cgroup_root().to_owned();
    let folder = topology.capture_file("any").parent().unwrap().to_owned();
    let pod = a.sandbox("default/web");
    let _server = a.serve("a", &["tcp:80"]);
    drop((topology, a, b, pod));
    assert!(!cgroup.exists() && !folder.exists());
}

#[test]
fn command_is_killed_at_its_deadline() {
    let topology = Topology::new();
    let node = topology.node(1);
    let start = Instant::now();
    let deadline = Duration::from_millis(200);
    let never_ends = || command_within(deadline, &node.namespaces, "sleep", &["infinity"]);
    let panic = catch_unwind(AssertUnwindSafe(never_ends)).unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains("killed after 200ms"), "{message}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// The state of a node is written while the test unwinds.
#[test]
fn panicking_test_leaves_artefacts() {
    const NAME: &str = "harness::example_of_a_failed_test";
    let folder = artefacts::folder_of(NAME);
    let _ = fs::remove_dir_all(&folder);
    let failed = thread::Builder::new().name(NAME.to_owned()).spawn(|| {
        let topology = Topology::new();
        // The pod is open from its first packet if its Namespace exists before.
        topology.apply("default", &namespace("default", &[]));
        let node = topology.node(1);
        let _agent = node.agent();
        let pod = node.pod("default/web");
        let capture = node.capture("eth0", &topology.capture_file("uplink"));
        pod.ping(&OUTSIDE.to_string(), 56);
        capture.finish();
        panic!("an example of a failed test");
    });
    assert!(failed.unwrap().join().is_err());
    for (file, words) in [
        ("node1/agent.log", &["ready"][..]),
        ("node1/network.txt", &["inet 172.30.0.11/24", "unreachable 10.244.1.0/24", "from_netdev"]),
        ("node1/maps.txt", &["# FRONTENDS", "# FLOWS", "LocalPod {", "outcome masqueraded: 1"]),
        ("node1/pods.txt", &["inet 10.244.1.2/32", "default via 169.254.1.1"]),
        ("router-near/network.txt", &["172.30.0.1"]),
        ("outside/network.txt", &["203.0.113.10"]),
    ] {
        let text = fs::read_to_string(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {file}:\n{text}");
        }
    }
    let capture = fs::read(folder.join("captures/uplink.pcap")).unwrap();
    assert_eq!(capture[..4], 0xa1b2_c3d4_u32.to_ne_bytes());
    assert!(capture.len() >= 24 + 2 * (16 + 84), "no packets: {} bytes", capture.len());
    fs::remove_dir_all(&folder).unwrap();
}

/// libtest captures what a passing test prints; the level counts lines that begin with `SKIPPED`.
#[test]
fn skipped_test_is_reported_on_a_line_of_its_own() {
    const VARIABLE: &str = "NETNS_TESTS_SKIP";
    const NAME: &str = "skipped_test_is_reported_on_a_line_of_its_own";
    if std::env::var_os(VARIABLE).is_some() {
        return skip("an example");
    }
    let mut tests = Command::new(std::env::current_exe().unwrap());
    tests.args(["--exact", NAME, "--test-threads=1"]).env(VARIABLE, "1");
    let output = output_within(Duration::from_secs(20), &mut tests);
    let line = format!("SKIPPED {NAME}: an example");
    assert_eq!(output.lines().filter(|found| *found == line).count(), 1, "{output}");
    assert!(output.contains("1 passed"), "{output}");
}

/// As when the deadline of the level kills the test process. (SIGINT is ignored in background jobs.)
#[test]
fn interrupted_test_process_leaves_nothing() {
    for signal in ["-TERM", "-KILL"] {
        let mut topology =
            Process::start(Command::new(own_program("netns-topology")).stderr(Stdio::inherit()));
        let report: Value = serde_json::from_str(&topology.line()).unwrap();
        let mut pids = vec![report["agent"].as_u64().unwrap()];
        pids.extend(report["servers"].as_array().unwrap().iter().map(|s| s.as_u64().unwrap()));
        assert_eq!(pids.len(), 3);
        let running = || {
            let exists = |pid: &&u64| Path::new("/proc").join(pid.to_string()).exists();
            pids.iter().filter(exists).count()
        };
        assert_eq!(running(), 3, "{report}");
        let pid = topology.pid().to_string();
        output_within(Duration::from_secs(5), Command::new("kill").args([signal, &pid]));
        eventually_equals("running test process", false, || topology.is_running());
        eventually_equals("processes of the topology", 0, running);
        // The next test removes what only it can.
        drop(Topology::new());
        for name in ["cgroup", "folder"] {
            let path = report[name].as_str().unwrap();
            assert!(!Path::new(path).exists(), "{signal}: {path}");
        }
    }
    drop(Cgroup::new("other"));
}
