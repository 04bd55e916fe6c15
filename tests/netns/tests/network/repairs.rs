//! Changes of a node by other programs, and how fast the agent repairs them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::thread;
use std::time::{Duration, Instant};

use netns_tests::{
    Agent, Node, OUTSIDE, Pod, Topology, agents, command, dataplane, eventually, eventually_equals,
    ip, ip_json,
};
use nix::mount::{MsFlags, mount};
use sluice_abi::{pin, program};
use sluice_bpf::AttachType;
use sluice_bpf::attach::{Direction, detach_cgroup, detach_device};
use sluice_bpf::netlink::Netlink;
use sluice_pod::device::link_by_name;

/// Within this time a change is repaired, on a machine that is not overloaded.
const LIMIT: Duration = Duration::from_secs(1);

/// What another program changes; whether it is in its desired state.
struct Case {
    name: &'static str,
    /// Label of the metric.
    kind: &'static str,
    change: fn(&Node, &Pod),
    is_repaired: fn(&Node, &Pod) -> bool,
}

const CASES: [Case; 16] = [
    Case {
        name: "route of a pod deleted",
        kind: "pod_route",
        change: |node, pod| drop(ip(&node.namespaces, &format!("route del {}", pod.address))),
        is_repaired: has_route,
    },
    Case {
        name: "route of a pod replaced",
        kind: "pod_route",
        change: |node, pod| {
            drop(ip(&node.namespaces, &format!("route replace {} dev eth0", pod.address)));
        },
        is_repaired: has_route,
    },
    Case {
        name: "device of a pod set down and up",
        kind: "pod_route",
        change: |node, pod| {
            for state in ["down", "up"] {
                ip(&node.namespaces, &format!("link set {} {state}", pod.host_device()));
            }
        },
        is_repaired: |node, pod| has_route(node, pod) && has_neighbour(node, pod),
    },
    Case {
        name: "device of a pod set down",
        kind: "pod_device",
        change: |node, pod| {
            drop(ip(&node.namespaces, &format!("link set {} down", pod.host_device())));
        },
        is_repaired: |node, pod| has_route(node, pod) && has_neighbour(node, pod),
    },
    Case {
        name: "neighbour entry of a pod deleted",
        kind: "pod_neighbour",
        change: |node, pod| {
            let (address, device) = (pod.address, pod.host_device());
            ip(&node.namespaces, &format!("neigh del {address} dev {device}"));
        },
        is_repaired: has_neighbour,
    },
    Case {
        name: "neighbour entry of a pod replaced",
        kind: "pod_neighbour",
        change: |node, pod| {
            let (address, device) = (pod.address, pod.host_device());
            let mac = "lladdr 02:00:00:00:00:01 nud permanent";
            ip(&node.namespaces, &format!("neigh replace {address} {mac} dev {device}"));
        },
        is_repaired: |node, pod| {
            has_neighbour(node, pod) && !is_of_mac(node, pod, "02:00:00:00:00:01")
        },
    },
    Case {
        name: "clsact qdisc of a pod deleted",
        kind: "pod_programs",
        change: |node, pod| {
            let arguments = ["qdisc", "del", "dev", pod.host_device(), "clsact"];
            command(&node.namespaces, "tc", &arguments);
        },
        is_repaired: has_programs,
    },
    // The programs are attached by tcx now.
    Case {
        name: "programs of a pod detached",
        kind: "pod_programs",
        change: |node, pod| dataplane::detach(node, pod.host_device()),
        is_repaired: has_programs,
    },
    Case {
        name: "forwarding of the node disabled",
        kind: "forwarding",
        change: |node, _| node.sysctl("net/ipv4/ip_forward", "0"),
        is_repaired: |node, pod| {
            ["all", "eth0", pod.host_device()].iter().all(|device| forwards(node, device))
        },
    },
    Case {
        name: "forwarding of the uplink disabled",
        kind: "forwarding",
        change: |node, _| node.sysctl("net/ipv4/conf/eth0/forwarding", "0"),
        is_repaired: |node, _| forwards(node, "eth0"),
    },
    Case {
        name: "forwarding of a pod's device disabled",
        kind: "pod_sysctls",
        change: |node, pod| {
            node.sysctl(&format!("net/ipv4/conf/{}/forwarding", pod.host_device()), "0");
        },
        is_repaired: |node, pod| forwards(node, pod.host_device()),
    },
    Case {
        name: "program of the uplink detached",
        kind: "uplink_programs",
        change: |node, _| {
            node.namespaces.run(|| {
                let mut netlink = Netlink::open().unwrap();
                let eth0 = link_by_name(&mut netlink, "eth0").unwrap().unwrap().index;
                let (direction, name) = (Direction::Ingress, program::FROM_NETDEV);
                assert_eq!(detach_device(&mut netlink, eth0, direction, name).unwrap(), 1);
            });
        },
        is_repaired: |node, _| dataplane::programs(node, "eth0").0 == [program::FROM_NETDEV],
    },
    Case {
        name: "socket program detached",
        kind: "socket_programs",
        change: |node, _| {
            let cgroup = File::open(node.cgroup_root()).unwrap();
            let detached = detach_cgroup(&cgroup, AttachType::Connect4, "connect4");
            assert_eq!(detached.unwrap(), 1);
        },
        is_repaired: |node, _| dataplane::socket_programs(node).len() == program::SOCKET.len(),
    },
    Case {
        name: "one pin removed",
        kind: "pins",
        change: |node, _| {
            let path = dataplane::map_path(sluice_abi::map::FRONTENDS);
            node.namespaces.run(|| fs::remove_file(path).unwrap());
        },
        is_repaired: |node, _| pins(node).contains(&sluice_abi::map::FRONTENDS.to_owned()),
    },
    Case {
        name: "all pins removed",
        kind: "pins",
        change: |node, _| dataplane::unload(node),
        is_repaired: |node, _| pins(node).len() >= program::SOCKET.len() + program::TC.len(),
    },
    Case {
        name: "route to another node deleted",
        kind: "routes",
        change: |node, _| drop(ip(&node.namespaces, "route del 10.244.2.0/24")),
        is_repaired: |node, _| !ip_json(&node.namespaces, "route show 10.244.2.0/24").is_empty(),
    },
];

fn has_route(node: &Node, pod: &Pod) -> bool {
    let routes = ip_json(&node.namespaces, &format!("route show {}", pod.address));
    routes.iter().any(|route| route["dev"] == pod.host_device())
}

fn neighbours(node: &Node, pod: &Pod) -> Vec<serde_json::Value> {
    ip_json(&node.namespaces, &format!("neigh show {} nud permanent", pod.address))
}

fn has_neighbour(node: &Node, pod: &Pod) -> bool {
    neighbours(node, pod).iter().any(|entry| entry["dev"] == pod.host_device())
}

fn is_of_mac(node: &Node, pod: &Pod, mac: &str) -> bool {
    neighbours(node, pod).iter().any(|entry| entry["lladdr"] == mac)
}

fn has_programs(node: &Node, pod: &Pod) -> bool {
    let (ingress, egress) = dataplane::programs(node, pod.host_device());
    (ingress, egress) == (vec!["from_pod".to_owned()], vec!["to_pod".to_owned()])
}

fn forwards(node: &Node, device: &str) -> bool {
    let path = format!("/proc/sys/net/ipv4/conf/{device}/forwarding");
    node.namespaces.run(|| fs::read_to_string(path).unwrap().trim() == "1")
}

fn pins(node: &Node) -> Vec<String> {
    node.namespaces.run(|| {
        let dirs = [pin::MAPS, pin::PROGRAMS].into_iter().filter_map(|dir| fs::read_dir(dir).ok());
        dirs.flatten().flatten().map(|e| e.file_name().into_string().unwrap()).collect()
    })
}

/// [`LIMIT`], longer where more processes are ready to run than the machine has processors.
fn limit() -> Duration {
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = load.split(' ').next().unwrap().parse().unwrap();
    let processors = thread::available_parallelism().unwrap().get();
    LIMIT.mul_f64((load / processors as f64).clamp(1.0, 5.0))
}

/// Value of `sluice_repairs_total` of one kind.
fn repairs(agent: &Agent, kind: &str) -> u64 {
    let metrics = agent.metrics();
    let name = format!("sluice_repairs_total{{kind=\"{kind}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

#[test]
fn changes_by_other_programs_are_repaired_within_a_second() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [agent, _other] = agents([(&a, &[]), (&b, &[])]);
    let (pod, bystander) = (a.pod("default/web"), a.pod("default/bystander"));
    let far = b.pod("default/far");
    let _servers = [
        pod.serve("web", &["tcp:80"]),
        far.serve("far", &["tcp:80"]),
        topology.outside.serve("outside", &["tcp:80"]),
    ];
    let flows: [(&str, &netns_tests::Host, String); 4] = [
        ("from another node's pod", &far, pod.at(80)),
        ("from another pod", &bystander, pod.at(80)),
        ("to another node's pod", &pod, far.at(80)),
        ("to the outside", &pod, format!("{OUTSIDE}:80")),
    ];
    for (what, client, target) in &flows {
        eventually(what, || client.connect("tcp", target));
    }
    for Case { name, kind, change, is_repaired } in CASES {
        assert!(is_repaired(&a, &pod), "{name}: before the change");
        let before = repairs(&agent, kind);
        change(&a, &pod);
        let start = Instant::now();
        eventually_equals(name, true, || is_repaired(&a, &pod));
        let (took, limit) = (start.elapsed(), limit());
        println!("{name}: repaired after {} ms", took.as_millis());
        assert!(took <= limit, "{name}: repaired after {took:?}, limit {limit:?}");
        for (what, client, target) in &flows {
            eventually(&format!("{name}: {what}"), || client.connect("tcp", target));
        }
        eventually_equals(&format!("{name}: counted as {kind}"), true, || {
            repairs(&agent, kind) > before
        });
    }
}

/// `sluice status` and the metrics follow the pins; CNI ADD works again without a restart.
#[test]
fn node_is_not_ready_while_its_pins_cannot_be_restored() {
    let topology = Topology::new();
    let node = topology.node(1);
    let agent = node.agent();
    let (web, client) = (node.pod("default/web"), node.pod("default/client"));
    let _server = web.serve("web", &["tcp:80"]);
    let ids = dataplane::program_ids(&node, web.host_device());
    node.unmount_bpffs();
    eventually_equals("readiness", true, || {
        agent.get("/readyz").is_ok_and(|r| r.starts_with("HTTP/1.1 503"))
    });
    let (success, status) = node.try_sluice(&["status"]);
    assert!(!success && status.contains("Pins"), "{status}");
    assert!(client.connect("tcp", &web.at(80)).is_ok(), "attached programs go on");
    node.namespaces.run(|| {
        let none = None::<&str>;
        mount(Some("bpf"), pin::BPFFS, Some("bpf"), MsFlags::empty(), none).unwrap();
    });
    eventually_equals("readiness", true, || {
        agent.get("/readyz").is_ok_and(|r| r.starts_with("HTTP/1.1 200"))
    });
    let pod = node.pod("default/new");
    assert_eq!(dataplane::program_ids(&node, pod.host_device()), ids, "the same programs");
    assert!(pod.connect("tcp", &web.at(80)).is_ok());
}

/// Notifications of 300 devices do not fit into the socket's buffer while the agent is stopped.
#[test]
fn lost_notifications_lead_to_a_fresh_read() {
    let topology = Topology::new();
    let node = topology.node(1);
    let agent = node.agent();
    let pod = node.pod("default/web");
    let signal =
        |signal: &str| command(&node.namespaces, "kill", &[signal, &agent.pid().to_string()]);
    signal("-STOP");
    let batch: String = (0..2000)
        .flat_map(|n| {
            ["add", "del"]
                .map(|verb| format!("route {verb} 10.99.{}.{}/32 dev eth0\n", n / 250, n % 250))
        })
        .collect();
    let file = topology.capture_file("batch");
    fs::write(&file, batch).unwrap();
    ip(&node.namespaces, &format!("-batch {}", file.display()));
    ip(&node.namespaces, &format!("route del {}", pod.address));
    signal("-CONT");
    agent.wait_log("notifications were lost");
    eventually_equals("route", true, || has_route(&node, &pod));
}

/// A second agent, such as one that was started by hand or the pod of a former version that hangs.
#[test]
fn second_agent_changes_nothing_and_names_the_first() {
    let topology = Topology::new();
    let node = topology.node(1);
    let agent = node.agent();
    let pod = node.pod("default/web");
    let traces = || {
        let names = [pin::MAPS, pin::PROGRAMS].map(|dir| {
            let entries = fs::read_dir(dir).unwrap().flatten();
            entries
                .map(|e| (e.file_name(), dataplane::object_id(&e.path())))
                .collect::<BTreeMap<_, _>>()
        });
        (names, fs::read("/run/cni/net.d/05-sluice.conflist").unwrap())
    };
    let programs = |device: &str| dataplane::program_ids(&node, device);
    let state = || (node.namespaces.run(traces), programs("eth0"), programs(pod.host_device()));
    let before = state();
    let id = agent.pid().to_string();
    // Stopped: it does not respond, and still holds the lock.
    command(&node.namespaces, "kill", &["-STOP", &id]);
    let other = ["--mtu=1300", "--snat-ports=62000-62010", "--health-bind=", "--metrics-bind="];
    let root = format!("--cgroup-root={}", node.cgroup_root().display());
    let flags = [&other[..], &["--socket=/run/other.sock"]].concat();
    // Each waits for the lock for some seconds.
    let (error, (success, cleanup)) = thread::scope(|scope| {
        let error = scope.spawn(|| node.agent_fails(&flags));
        let cleanup = node.try_sluice(&["cleanup", &root]);
        (error.join().unwrap(), cleanup)
    });
    command(&node.namespaces, "kill", &["-CONT", &id]);
    assert!(!success, "{cleanup}");
    for text in [error, cleanup] {
        for words in
            ["locked by another process", &format!("pid {id} "), "started at", "sluice agent"]
        {
            assert!(text.contains(words), "{words:?} in {text}");
        }
    }
    assert_eq!(state(), before);
    agent.kill();
    let _next = node.agent();
}

/// The CNI configuration is on disk, bpffs is not: a node that has started again.
#[test]
fn node_is_not_ready_after_a_reboot_until_it_has_a_dataplane() {
    const CONF: &str = "/run/cni/net.d/05-sluice.conflist";
    let topology = Topology::new();
    let node = topology.node(1);
    node.agent().kill();
    assert!(node.exists(CONF));
    // With pins, as after a restart of the agent, pods can be created.
    topology.delete("node1");
    let agent = node.agent_not_ready(&[]);
    agent.wait_log("condition: waiting concern=HostState");
    assert!(node.exists(CONF));
    agent.kill();

    dataplane::unload(&node);
    let mut agent = node.agent_not_ready(&[]);
    agent.wait_log("CNI configuration removed");
    assert!(!node.exists(CONF));
    topology.apply("node1", &netns_tests::manifest::node(&node));
    agent.wait_ready();
    assert!(node.exists(CONF));
    node.pod("default/web");
}
