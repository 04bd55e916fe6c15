//! The agent goes away and comes back: pods notice nothing.

use std::collections::BTreeMap;
use std::fs;

use netns_tests::manifest::service_with;
use netns_tests::peer::Held;
use netns_tests::{Node, OUTSIDE, Pod, World, dataplane, eventually};

const VIP: &str = "10.96.3.3";
const PORTS: [&str; 2] = ["tcp:80->8080", "udp:53->5353"];
const SERVED: [&str; 2] = ["tcp:8080", "udp:5353"];

/// Ids of what is pinned, by name.
fn pins(node: &Node) -> BTreeMap<String, u64> {
    node.spaces.run(|| {
        let mut pins = BTreeMap::new();
        for folder in [sluice_abi::pin::MAPS, sluice_abi::pin::PROGRAMS] {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let name = entry.file_name().into_string().unwrap();
                pins.insert(name, dataplane::object_id(&entry.path()));
            }
        }
        pins
    })
}

#[test]
fn an_agent_that_is_killed_and_comes_back_loses_nothing() {
    let world = World::new();
    let (a, b) = (world.node(1), world.node(2));
    let mut agent = Some(a.agent());
    let _other = b.agent();
    let (near, far) = (a.pod("default/web-0"), b.pod("default/web-1"));
    let client = a.pod("default/client");
    // A pod of its own: the packet path knows nothing of connections that it does not translate,
    // and may give one of a Service the tuple of another that goes straight to the backend.
    let packets = a.pod("default/packets").without_hooks();
    let _servers = [
        near.serve("web-0", &SERVED),
        far.serve("web-1", &SERVED),
        world.outside.serve("outside", &["tcp:80", "udp:53"]),
    ];
    world.apply("web", &service_with("web", VIP, &PORTS, &[&near, &far]));
    let vip = format!("{VIP}:80");
    for place in [&client.place, &packets] {
        eventually("the Service", || place.ask("tcp", &vip));
    }
    let held = [
        ("near pod", client.hold("tcp", &near.at(8080))),
        ("far pod", client.hold("tcp", &far.at(8080))),
        ("Service, sockets", client.hold("tcp", &vip)),
        ("Service, packets", packets.hold("tcp", &vip)),
        ("Service, new connections, sockets", client.hold("connect", &vip)),
        ("Service, new connections, packets", packets.hold("connect", &vip)),
        ("Service, UDP, sockets", client.hold("udp", &format!("{VIP}:53"))),
        ("Service, UDP, packets", packets.hold("udp-connected", &format!("{VIP}:53"))),
        ("outside", client.hold("tcp", &format!("{OUTSIDE}:80"))),
        ("outside, new connections", client.hold("connect", &format!("{OUTSIDE}:80"))),
        ("outside, UDP", client.hold("udp", &format!("{OUTSIDE}:53"))),
        ("node", a.hold("connect", &far.at(8080))),
        ("from the other side", far.hold("connect", &near.at(8080))),
    ];
    let before = pins(&a);
    for name in [sluice_abi::map::CONNTRACK, sluice_abi::program::FROM_POD, "connect4"] {
        assert!(before.contains_key(name), "{name}: {before:?}");
    }
    let hooks = dataplane::programs(&a, client.host_device());
    for _ in 0..3 {
        agent.take().unwrap().kill();
        agent = Some(a.agent());
        assert_eq!(pins(&a), before, "the same maps and programs, not new ones");
        assert_eq!(dataplane::programs(&a, client.host_device()), hooks);
        assert_eq!(
            dataplane::programs(&a, "eth0"),
            (vec!["from_netdev".into()], vec!["to_netdev".into()])
        );
    }
    for (what, client) in held {
        let held: Held = client.finish();
        assert_eq!(held.failed, [] as [String; 0], "{what}: {held:?}");
        // A lost SYN is sent again after a second, a lost datagram counts as failed.
        assert!(held.longest_ms < 900, "{what}: {held:?}");
    }
}

#[test]
fn pods_are_wired_and_talk_while_no_agent_runs() {
    let world = World::new();
    let (a, b) = (world.node(1), world.node(2));
    let _other = b.agent();
    let web = b.pod("default/web");
    let _server = web.serve("web", &SERVED);
    world.apply("web", &service_with("web", VIP, &PORTS, &[&web]));
    let agent = a.agent();
    let first = a.pod("default/first");
    eventually("the Service", || first.ask("tcp", &format!("{VIP}:80")));
    agent.kill();

    let late = a.pod("default/late");
    let _late = late.serve("late", &SERVED);
    for place in [late.place.clone(), late.without_hooks()] {
        for target in [web.at(8080), format!("{VIP}:80")] {
            assert!(place.ask("tcp", &target).is_ok(), "{target}");
        }
    }
    assert!(first.ask("tcp", &late.at(8080)).is_ok());
    assert!(web.ask("tcp", &late.at(8080)).is_ok());
    let gone = a.pod("default/gone");
    a.cni("DEL", &gone.sandbox).ok();
    assert_eq!(dataplane::endpoints(&a), 2);
    let _agent = a.agent();
    assert_eq!(dataplane::endpoints(&a), 2);
    assert!(web.ask("tcp", &late.at(8080)).is_ok());
}

#[test]
fn what_changed_while_no_agent_ran_is_caught_up_with() {
    let world = World::new();
    let a = world.node(1);
    let agent = a.agent();
    let pods: Vec<Pod> = (0..2).map(|n| a.pod(&format!("default/web-{n}"))).collect();
    let _servers = [pods[0].serve("web-0", &SERVED), pods[1].serve("web-1", &SERVED)];
    let client = a.pod("default/client");
    let vip = format!("{VIP}:80");
    world.apply("web", &service_with("web", VIP, &PORTS, &[&pods[0]]));
    eventually("the Service", || client.ask("tcp", &vip));
    agent.kill();
    world.apply("web", &service_with("web", VIP, &PORTS, &[&pods[1]]));
    // A node joins meanwhile, and somebody damages what the agent keeps.
    let b = world.node(2);
    let _other = b.agent();
    let far = b.pod("default/far");
    let _far = far.serve("far", &SERVED);
    dataplane::detach(&a, client.host_device());
    dataplane::forget_endpoint(&a, pods[1].address);
    let (answer, _) = client.ask("tcp", &vip).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(answer.who, "web-0", "nobody told the node of the change");

    let _agent = a.agent();
    eventually("the new backend", || match client.ask("tcp", &vip) {
        Ok((answer, _)) if answer.who == "web-1" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually("the new node", || client.ask("tcp", &far.at(8080)));
    assert_eq!(dataplane::programs(&a, client.host_device()).0, ["from_pod"]);
    assert!(dataplane::endpoint(&a, pods[1].address).is_some());
}

#[test]
fn sandboxes_that_vanished_while_the_agent_was_away_are_reclaimed() {
    let world = World::new();
    let a = world.node(1);
    let agent = a.agent();
    let (kept, lost) = (a.pod("default/kept"), a.pod("default/lost"));
    agent.kill();
    let (path, address) = (lost.sandbox.path.clone(), lost.address);
    drop(lost);
    a.drop_sandbox(&path);
    let _agent = a.agent();
    eventually("the row of the lost pod is gone", || match dataplane::endpoint(&a, address) {
        None => Ok(()),
        Some(row) => Err(format!("{row:?}")),
    });
    assert!(dataplane::endpoint(&a, kept.address).is_some());
}

#[test]
fn an_upgrade_takes_over_pods_and_replaces_maps_of_another_shape() {
    let world = World::new();
    let a = world.node(1);
    // What another version has left: its programs on the pod, some maps of other sizes.
    dataplane::load(&a);
    let pod = a.pod("default/old");
    let before = pins(&a);
    let agent = a.agent();
    let after = pins(&a);
    assert_eq!(before[sluice_abi::map::LOCAL_PODS], after[sluice_abi::map::LOCAL_PODS], "kept");
    assert_ne!(before[sluice_abi::map::CONNTRACK], after[sluice_abi::map::CONNTRACK]);
    assert_ne!(before["from_pod"], after["from_pod"], "a program of the new maps");
    let attached = |device: &str| dataplane::program_ids(&a, device);
    assert_eq!(
        attached(pod.host_device()),
        (vec![after["from_pod"]], vec![after["to_pod"]]),
        "the pod that was there has the new programs, once"
    );
    let web = a.pod("default/web");
    let _server = web.serve("web", &SERVED);
    let _outside = world.outside.serve("outside", &["tcp:80"]);
    assert!(pod.ask("tcp", &web.at(8080)).is_ok());
    assert!(pod.ask("tcp", &format!("{OUTSIDE}:80")).is_ok());
    assert!(agent.log().contains("another shape"), "{}", agent.log());
}
