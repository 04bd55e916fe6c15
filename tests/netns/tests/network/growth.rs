//! Maps that are replaced by larger ones, under traffic.

use std::fs;
use std::path::Path;

use netns_tests::manifest::service_with;
use netns_tests::peer::HoldReport;
use netns_tests::{Host, Node, Pod, Topology, Version, agents, dataplane, eventually};
use sluice_abi::{Frontend, FrontendKey, PortBe, map, pin, proto};
use sluice_bpf::{Map, map_info, obj_get};

use crate::stops::{ENDS_WITHIN, VERIFYING};
use crate::traffic::{Churn, Traffic, drops, short_pod, vip, wait_alone};

/// Maps that are full after a few Services.
const SMALL: &str = "--initial-capacity=16";

/// Address and port of Service `n`.
fn address(n: u32) -> String {
    format!("10.96.{}.{}", 100 + n / 250, 1 + n % 250)
}

/// Adds Services with these numbers; each has a frontend, its wildcard, and one endpoint.
fn add_services(topology: &Topology, numbers: std::ops::Range<u32>, backend: &Pod) {
    let (first, last) = (numbers.start, numbers.end);
    let services = numbers
        .map(|n| service_with(&format!("many-{n}"), &address(n), &["tcp:80->8080"], &[backend]));
    let manifests: Vec<String> = services.collect();
    topology.apply(&format!("many-{first}-{last}"), &manifests.join("---"));
}

/// Waits until the last of these Services has an entry, and the rest with it.
fn wait_programmed(node: &Node, services: u32) {
    eventually("the Services", || {
        let missing = node.namespaces.run(|| {
            // The pin is absent for the moment in which it is replaced.
            let path = dataplane::map_path(map::FRONTENDS);
            let Ok(frontends) = Map::<FrontendKey, Frontend>::open_pinned(path) else {
                return services as usize;
            };
            let is_missing = |n: &u32| {
                let addr: std::net::IpAddr = address(*n).parse().unwrap();
                let port = PortBe::new(80);
                let key = FrontendKey { addr: addr.into(), port, proto: proto::TCP, pad: 0 };
                frontends.lookup(&key).unwrap().is_none()
            };
            (0..services).filter(is_missing).count()
        });
        if missing == 0 { Ok(()) } else { Err(format!("{missing} of {services} are missing")) }
    });
}

/// Requests to each Service, as the socket programs and as the tc programs serve them.
fn request_each(hosts: [(&str, &Host); 2], services: u32) {
    for (what, host) in hosts {
        for n in 0..services {
            let response = host.connect("tcp", &format!("{}:80", address(n)));
            assert!(response.is_ok(), "{what}, Service {n}: {response:?}");
        }
    }
}

fn entries(node: &Node) -> [u32; 3] {
    entries_of(node, Version::This)
}

fn entries_of(node: &Node, version: Version) -> [u32; 3] {
    let maps = Path::new(pin::ROOT).with_file_name(version.pins()).join("maps");
    node.namespaces.run(|| {
        [map::FRONTENDS, map::SLOTS, map::BACKENDS].map(|name| {
            let pinned = obj_get(&maps.join(name)).unwrap_or_else(|e| panic!("{version:?}: {e}"));
            map_info(pinned).unwrap().max_entries
        })
    })
}

#[test]
fn maps_grow_with_the_services_and_lose_nothing() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [mut agent, _other] = agents([(&a, &[SMALL]), (&b, &[])]);
    let traffic = Traffic::start(&topology, &a, &b);
    assert_eq!(entries(&a), [16; 3]);
    let shared = [map::FLOWS, map::PODS, map::LOCAL_PODS, map::NETWORKS, map::COUNTERS];
    let ids =
        || a.namespaces.run(|| shared.map(|name| dataplane::object_id(&dataplane::map_path(name))));
    let before = ids();
    let pods = Churn::while_running(&a, &traffic.far.at(8080), |_| {
        // The maps are too small after each of these; the second follows while pins of the first
        // growth are left.
        let mut known = 0;
        for services in [12, 40, 100] {
            add_services(&topology, known..services, &traffic.near);
            wait_programmed(&a, services);
            println!("    {services} Services: {:?} entries", entries(&a));
            known = services;
        }
    });
    println!("    {pods} pods were added and deleted");
    // 203 frontends, 104 slots and backends, and a quarter more. If the last Services have arrived in two parts,
    // the first may have led to a growth of its own.
    eventually("capacities", || {
        // A pin is absent for the moment in which it is replaced.
        let capacity = |name| {
            let map = obj_get(&dataplane::map_path(name)).ok()?;
            Some(map_info(map).ok()?.max_entries)
        };
        let now = a.namespaces.run(|| [map::FRONTENDS, map::SLOTS, map::BACKENDS].map(capacity));
        if now == [Some(256); 3] { Ok(()) } else { Err(format!("{now:?}")) }
    });
    // The former maps are removed, and the log has no failure.
    wait_alone(&a, &mut agent, Version::This);
    let hosts = [("socket programs", &*traffic.client), ("tc programs", &traffic.packets)];
    request_each(hosts, 100);
    assert_eq!(ids(), before, "maps that do not change stay");
    assert!(!agent.log().contains("condition: failed"), "{}", agent.log());
    let status = a.sluice(&["status"]);
    assert!(status.contains("Capacity FRONTENDS:") && status.contains(" 256"), "{status}");
    // A restart keeps the capacity, and the rows.
    agent.kill();
    let agent = a.agent_with(&[SMALL]);
    assert_eq!(entries(&a), [256; 3]);
    assert!(!agent.log_of_this().contains("replaced"), "{}", agent.log_of_this());
    request_each(hosts, 100);
    traffic.finish();
    assert_eq!(drops(&a), []);
}

/// A Service with that many endpoints, which nothing serves.
fn wide(endpoints: u32) -> String {
    let endpoints = (1..=endpoints).map(|n| format!("{{addresses: [10.244.9.{n}]}}"));
    let endpoints = endpoints.collect::<Vec<_>>().join(", ");
    format!(
        "kind: Service\nmetadata: {{name: wide, namespace: default}}\n\
         spec: {{clusterIP: 10.96.99.1, ports: [{{port: 80}}]}}\n---\n\
         kind: EndpointSlice\nmetadata: {{name: wide, namespace: default, \
         labels: {{kubernetes.io/service-name: wide}}}}\naddressType: IPv4\n\
         ports: [{{port: 8080}}]\nendpoints: [{endpoints}]\n"
    )
}

/// Rows of one table are positions in another: attached programs must not combine new rows of SERVICES with the
/// former SLOTS.
#[test]
fn tables_of_services_are_replaced_together_though_two_of_them_are_full() {
    let topology = Topology::new();
    let node = topology.node(1);
    let mut agent = node.agent_with(&[SMALL]);
    let (web, client) = (node.pod("default/web"), node.pod("default/client"));
    let _server = web.serve("web", &["tcp:8080"]);
    add_services(&topology, 0..1, &web);
    topology.apply("wide", &wide(4));
    wait_programmed(&node, 1);
    wait_alone(&node, &mut agent, Version::This);
    let ids = |names: &[&str]| -> Vec<u64> {
        let id = |name: &&str| dataplane::object_id(&dataplane::map_path(name));
        node.namespaces.run(|| names.iter().map(id).collect())
    };
    let others = [map::FLOWS, map::PODS, map::LOCAL_PODS, map::NETWORKS];
    let (tables, kept) = (ids(&map::SERVICE_TABLES), ids(&others));
    let before = entries(&node);
    topology.apply("wide", &wide(40));
    eventually("larger maps", || {
        // The pins are absent while they are replaced.
        let capacity = |name| {
            let pinned = obj_get(&dataplane::map_path(name)).ok()?;
            Some(map_info(pinned).ok()?.max_entries)
        };
        let now = node.namespaces.run(|| [map::SLOTS, map::BACKENDS].map(capacity));
        match now.iter().all(|capacity| capacity.is_some_and(|entries| entries >= 64)) {
            true => Ok(()),
            false => Err(format!("{now:?}")),
        }
    });
    wait_alone(&node, &mut agent, Version::This);
    assert_eq!(entries(&node)[0], before[0], "FRONTENDS has space");
    let now = ids(&map::SERVICE_TABLES);
    assert!(tables.iter().zip(&now).all(|(before, now)| before != now), "{tables:?} {now:?}");
    assert_eq!(ids(&others), kept);
    request_each([("socket programs", &*client), ("tc", &client.without_socket_programs())], 1);
}

#[test]
fn maps_that_have_grown_keep_their_capacity_over_an_upgrade_and_a_downgrade() {
    let topology = Topology::new();
    let node = topology.node(1);
    let mut agent = node.agent_with(&[SMALL]);
    let (web, client) = (node.pod("default/web"), node.pod("default/client"));
    let _server = web.serve("web", &["tcp:8080"]);
    add_services(&topology, 0..40, &web);
    wait_programmed(&node, 40);
    wait_alone(&node, &mut agent, Version::This);
    let grown = entries(&node);
    assert_eq!(grown, [128, 64, 64]);
    let packets = client.without_socket_programs();
    let held = packets.hold("tcp", &format!("{}:80", address(0)));
    // The Services that are left fit the initial capacity: the pinned maps alone have the larger one.
    let few =
        (0..4).map(|n| service_with(&format!("many-{n}"), &address(n), &["tcp:80->8080"], &[&web]));
    topology.apply("many-0-40", &few.collect::<Vec<_>>().join("---"));
    eventually("removal of the other Services", || {
        match dataplane::entries::<FrontendKey, Frontend>(&node, map::FRONTENDS).len() {
            rows if rows < 16 => Ok(()),
            rows => Err(format!("{rows} frontends")),
        }
    });
    for version in [Version::Next, Version::This] {
        agent.kill();
        agent = node.agent_of_with(version, &[SMALL]);
        wait_alone(&node, &mut agent, version);
        assert_eq!(entries_of(&node, version), grown, "{version:?}");
        request_each([("socket programs", &*client), ("tc programs", &packets)], 4);
    }
    let held: HoldReport = held.finish();
    assert!(held.errors.is_empty() && held.longest_ms < 900, "{held:?}");
    assert_eq!(drops(&node), []);
}

#[test]
fn first_lists_decide_the_capacity_of_the_first_maps() {
    let topology = Topology::new();
    let node = topology.node(1);
    let (web, client) = {
        // Pods exist before the agent that has the list.
        let agent = node.agent();
        let pods = (node.pod("default/web"), node.pod("default/client"));
        agent.kill();
        dataplane::unload(&node);
        pods
    };
    let _server = web.serve("web", &["tcp:8080"]);
    add_services(&topology, 0..40, &web);
    let agent = node.agent_with(&[SMALL]);
    assert_eq!(entries(&node), [128, 64, 64]);
    for line in ["taken over from another version", "maps replaced by larger ones"] {
        assert!(!agent.log().contains(line), "{}", agent.log());
    }
    let packets = client.without_socket_programs();
    request_each([("socket programs", &*client), ("tc programs", &packets)], 40);
}

#[test]
fn failed_growth_keeps_what_fits_and_is_repeated() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [mut agent, _other] = agents([(&a, &[SMALL]), (&b, &[])]);
    let traffic = Traffic::start(&topology, &a, &b);
    // A program cannot be pinned: a directory has its name.
    let obstacle = Path::new(pin::PROGRAMS).join("to_pod_new");
    a.namespaces.run(|| fs::create_dir(&obstacle).unwrap());
    let ids = || {
        a.namespaces.run(|| map::ALL.map(|name| dataplane::object_id(&dataplane::map_path(name))))
    };
    let before = ids();
    add_services(&topology, 0..12, &traffic.near);
    eventually("the condition", || {
        let (_, status) = a.try_sluice(&["status"]);
        let complete = status.contains("Condition Growth:") && status.contains("to_pod_new");
        if complete { Ok(()) } else { Err(status) }
    });
    assert_eq!((ids(), entries(&a)), (before, [16; 3]), "the present maps stay pinned");
    for (what, host) in [("socket programs", &*traffic.client), ("tc programs", &traffic.packets)] {
        assert!(host.connect("tcp", &vip(80)).is_ok(), "{what}");
    }
    // Pods can be added meanwhile.
    short_pod(&a, &traffic.far.at(8080), 0);
    a.namespaces.run(|| fs::remove_dir(&obstacle).unwrap());
    wait_programmed(&a, 12);
    request_each([("socket programs", &*traffic.client), ("tc programs", &traffic.packets)], 12);
    wait_alone(&a, &mut agent, Version::This);
    let (_, status) = a.try_sluice(&["status"]);
    assert!(!status.contains("Condition"), "{status}");
    traffic.finish();
    assert_eq!(drops(&a), []);
}

#[test]
fn agents_killed_during_a_growth_lose_nothing() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [agent, _other] = agents([(&a, &[SMALL]), (&b, &[])]);
    let traffic = Traffic::start(&topology, &a, &b);
    agent.kill();
    let mut known = 0;
    // Each number of Services needs one frontend more than the capacity before.
    for (services, line) in [
        (12, "maps set aside: attached programs use them until the switch"),
        (31, "maps replaced by larger ones"),
        (63, "programs of this version have taken over"),
        (127, "taken over from another version"),
    ] {
        add_services(&topology, known..services, &traffic.near);
        println!("    {services} Services until {line:?}");
        a.agent_not_ready(&[SMALL]).kill_at(&[line]);
        known = services;
    }
    let mut agent = a.agent_with(&[SMALL]);
    wait_programmed(&a, known);
    wait_alone(&a, &mut agent, Version::This);
    request_each([("socket programs", &*traffic.client), ("tc programs", &traffic.packets)], known);
    traffic.finish();
    assert_eq!(drops(&a), []);
}

#[test]
fn agent_that_is_stopped_during_a_growth_pins_the_present_maps_and_the_next_one_grows() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [agent, _other] = agents([(&a, &[SMALL]), (&b, &[])]);
    let traffic = Traffic::start(&topology, &a, &b);
    agent.kill();
    let before = dataplane::pins(&a);
    add_services(&topology, 0..12, &traffic.near);
    // It starts with pinned programs, so that those of the larger maps are the first to be verified.
    let log = a.agent_not_ready(&[SMALL]).terminate_at(&[VERIFYING], ENDS_WITHIN);
    assert!(log.contains("maps set aside"), "{log}");
    let failures = ["cannot replace the maps", "could not pin the present maps"];
    assert!(!failures.iter().any(|failure| log.contains(failure)), "{log}");
    assert_eq!(dataplane::pins(&a), before);
    short_pod(&a, &traffic.far.at(8080), 0);
    let mut agent = a.agent_with(&[SMALL]);
    wait_programmed(&a, 12);
    wait_alone(&a, &mut agent, Version::This);
    request_each([("socket programs", &*traffic.client), ("tc programs", &traffic.packets)], 12);
    traffic.finish();
    assert_eq!(drops(&a), []);
}
