//! Restarts and upgrades of the agent.

use std::fs;
use std::path::Path;

use netns_tests::dataplane::pins;
use netns_tests::manifest::service_with;
use netns_tests::peer::HoldReport;
use netns_tests::{OUTSIDE, Pod, Topology, agents, dataplane, eventually, eventually_equals};
use sluice_abi::{map, pin, program};
use sluice_bpf::{obj_get, obj_pin, prog_info};

const VIP: &str = "10.96.3.3";
const PORTS: [&str; 2] = ["tcp:80->8080", "udp:53->5353"];
const SERVED: [&str; 2] = ["tcp:8080", "udp:5353"];

#[test]
fn restarted_agent_loses_no_request() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [agent, _other] = agents([(&a, &[]), (&b, &[])]);
    let mut agent = Some(agent);
    let (near, far) = (a.pod("default/web-0"), b.pod("default/web-1"));
    let client = a.pod("default/client");
    // Another pod: the tc programs do not track connections that they do not translate, and may
    // give a connection to the Service the tuple of one to the backend's address.
    let packets = a.pod("default/packets").without_socket_programs();
    let _servers = [
        near.serve("web-0", &SERVED),
        far.serve("web-1", &SERVED),
        topology.outside.serve("outside", &["tcp:80", "udp:53"]),
    ];
    topology.apply("web", &service_with("web", VIP, &PORTS, &[&near, &far]));
    let vip = format!("{VIP}:80");
    for host in [&*client, &packets] {
        eventually("the Service", || host.connect("tcp", &vip));
    }
    let held = [
        ("near pod", client.hold("tcp", &near.at(8080))),
        ("far pod", client.hold("tcp", &far.at(8080))),
        ("Service, socket programs", client.hold("tcp", &vip)),
        ("Service, tc programs", packets.hold("tcp", &vip)),
        ("Service, new connections, socket programs", client.hold("connect", &vip)),
        ("Service, new connections, tc programs", packets.hold("connect", &vip)),
        ("Service, UDP, socket programs", client.hold("udp", &format!("{VIP}:53"))),
        ("Service, UDP, tc programs", packets.hold("udp-connected", &format!("{VIP}:53"))),
        ("outside", client.hold("tcp", &format!("{OUTSIDE}:80"))),
        ("outside, new connections", client.hold("connect", &format!("{OUTSIDE}:80"))),
        ("outside, UDP", client.hold("udp", &format!("{OUTSIDE}:53"))),
        ("node", a.hold("connect", &far.at(8080))),
        ("from the other node", far.hold("connect", &near.at(8080))),
    ];
    let before = pins(&a);
    for name in [sluice_abi::map::FLOWS, sluice_abi::program::FROM_POD, "connect4"] {
        assert!(before.contains_key(name), "{name}: {before:?}");
    }
    let hooks = dataplane::programs(&a, client.host_device());
    for _ in 0..3 {
        agent.take().unwrap().kill();
        agent = Some(a.agent());
        assert_eq!(pins(&a), before, "maps or programs were replaced");
        let log = agent.as_ref().unwrap().log_of_this();
        assert!(log.contains("programs_verified=0 "), "programs were loaded again: {log}");
        assert_eq!(dataplane::programs(&a, client.host_device()), hooks);
        assert_eq!(
            dataplane::programs(&a, "eth0"),
            (vec!["from_netdev".into()], vec!["to_netdev".into()])
        );
    }
    for (what, client) in held {
        let held: HoldReport = client.finish();
        assert_eq!(held.errors, [] as [String; 0], "{what}: {held:?}");
        // A lost SYN is sent again after a second; a lost datagram is an error.
        assert!(held.longest_ms < 900, "{what}: {held:?}");
    }
}

#[test]
fn pods_are_added_and_deleted_while_no_agent_runs() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [agent, _other] = agents([(&a, &[]), (&b, &[])]);
    let web = b.pod("default/web");
    let _server = web.serve("web", &SERVED);
    topology.apply("web", &service_with("web", VIP, &PORTS, &[&web]));
    let first = a.pod("default/first");
    eventually("the Service", || first.connect("tcp", &format!("{VIP}:80")));
    agent.kill();

    let late = a.pod("default/late");
    let _late = late.serve("late", &SERVED);
    for (what, host) in late.both_paths() {
        for target in [web.at(8080), format!("{VIP}:80")] {
            assert!(host.connect("tcp", &target).is_ok(), "{what}, {target}");
        }
    }
    assert!(first.connect("tcp", &late.at(8080)).is_ok());
    assert!(web.connect("tcp", &late.at(8080)).is_ok());
    let deleted = a.pod("default/deleted");
    a.cni("DEL", &deleted.sandbox).ok();
    assert_eq!(dataplane::local_pods(&a), 2);
    let _agent = a.agent();
    assert_eq!(dataplane::local_pods(&a), 2);
    assert!(web.connect("tcp", &late.at(8080)).is_ok());
}

#[test]
fn changes_while_no_agent_runs_are_applied_at_its_start() {
    let topology = Topology::new();
    let a = topology.node(1);
    let agent = a.agent();
    let pods: Vec<Pod> = (0..2).map(|n| a.pod(&format!("default/web-{n}"))).collect();
    let _servers = [pods[0].serve("web-0", &SERVED), pods[1].serve("web-1", &SERVED)];
    let client = a.pod("default/client");
    let vip = format!("{VIP}:80");
    topology.apply("web", &service_with("web", VIP, &PORTS, &[&pods[0]]));
    eventually("the Service", || client.connect("tcp", &vip));
    agent.kill();
    topology.apply("web", &service_with("web", VIP, &PORTS, &[&pods[1]]));
    // A node joins, and programs and an entry that the agent maintains are removed.
    let b = topology.node(2);
    let _other = b.agent();
    let far = b.pod("default/far");
    let _far = far.serve("far", &SERVED);
    dataplane::detach(&a, client.host_device());
    dataplane::delete_local_pod(&a, pods[1].address);
    let (response, _) = client.connect("tcp", &vip).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(response.server, "web-0", "the change needs an agent");

    let _agent = a.agent();
    eventually("the new backend", || match client.connect("tcp", &vip) {
        Ok((response, _)) if response.server == "web-1" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually("the new node", || client.connect("tcp", &far.at(8080)));
    assert_eq!(dataplane::programs(&a, client.host_device()).0, ["from_pod"]);
    assert!(dataplane::local_pod(&a, pods[1].address).is_some());
}

#[test]
fn map_entries_of_sandboxes_removed_while_no_agent_runs_are_deleted() {
    let topology = Topology::new();
    let a = topology.node(1);
    let agent = a.agent();
    let (kept, lost) = (a.pod("default/kept"), a.pod("default/lost"));
    agent.kill();
    let (path, address) = (lost.sandbox.path.clone(), lost.address);
    drop(lost);
    a.drop_sandbox(&path);
    let _agent = a.agent();
    eventually_equals("entry of the removed pod", None, || dataplane::local_pod(&a, address));
    assert!(dataplane::local_pod(&a, kept.address).is_some());
}

#[test]
fn programs_are_loaded_again_when_a_pin_is_missing_or_another_object() {
    let topology = Topology::new();
    let a = topology.node(1);
    let mut agent = a.agent();
    let (web, client) = (a.pod("default/web"), a.pod("default/client"));
    let _server = web.serve("web", &SERVED);
    let program = |name: &str| Path::new(pin::PROGRAMS).join(name);
    let map = |name: &str| Path::new(pin::MAPS).join(name);
    let record = Path::new(pin::ROOT).join(pin::LOADED);
    let successors = map(map::SUCCESSORS);
    // The other objects have the same kind and shape, except the one in place of the record.
    for (path, other) in [
        (&program(program::TO_NETDEV), None),
        (&program(program::FROM_POD), Some(program(program::TO_POD))),
        (&successors, Some(map(map::PREDECESSORS))),
        (&record, None),
        (&record, Some(map(map::COUNTERS))),
    ] {
        let before = pins(&a);
        agent.kill();
        a.namespaces.run(|| {
            fs::remove_file(path).unwrap();
            if let Some(other) = &other {
                obj_pin(path, obj_get(other).unwrap()).unwrap();
            }
        });
        agent = a.agent();
        let log = agent.log_of_this();
        let verified = format!("programs_verified={} ", program::all().count());
        assert!(log.contains(&verified), "{}: {log}", path.display());
        let pinned = pins(&a);
        if *path == successors {
            assert_ne!(pinned["from_pod"], before["from_pod"], "programs use the pinned map");
        } else {
            assert_eq!(pinned[program::FROM_NETDEV], before[program::FROM_NETDEV]);
        }
        if let Some(name) = path.strip_prefix(pin::PROGRAMS).ok().and_then(Path::to_str) {
            let found = a.namespaces.run(|| prog_info(obj_get(path).unwrap()).unwrap().name);
            assert_eq!(found, name);
        }
        let late = a.pod("default/late");
        for pod in [&client, &late] {
            let programs = (vec![pinned["from_pod"]], vec![pinned["to_pod"]]);
            assert_eq!(dataplane::program_ids(&a, pod.host_device()), programs);
            assert!(pod.connect("tcp", &web.at(8080)).is_ok(), "{}", path.display());
        }
    }
}

#[test]
fn upgrade_keeps_pods_and_replaces_maps_of_another_shape() {
    let topology = Topology::new();
    let a = topology.node(1);
    // As left by another version: its programs on the pod, some maps with other capacities.
    dataplane::load_all(&a, Some(dataplane::SMALL));
    let pod = a.pod("default/old");
    let before = pins(&a);
    let agent = a.agent();
    let after = pins(&a);
    assert_eq!(before[sluice_abi::map::LOCAL_PODS], after[sluice_abi::map::LOCAL_PODS], "kept");
    assert_ne!(before[sluice_abi::map::FLOWS], after[sluice_abi::map::FLOWS]);
    assert_ne!(before["from_pod"], after["from_pod"], "programs use the new maps");
    let attached = |device: &str| dataplane::program_ids(&a, device);
    assert_eq!(
        attached(pod.host_device()),
        (vec![after["from_pod"]], vec![after["to_pod"]]),
        "the existing pod has the new programs, once each"
    );
    let web = a.pod("default/web");
    let _server = web.serve("web", &SERVED);
    let _outside = topology.outside.serve("outside", &["tcp:80"]);
    assert!(pod.connect("tcp", &web.at(8080)).is_ok());
    assert!(pod.connect("tcp", &format!("{OUTSIDE}:80")).is_ok());
    assert!(agent.log().contains("shape"), "{}", agent.log());
}
