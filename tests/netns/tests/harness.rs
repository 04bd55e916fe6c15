//! The harness itself: if these fail, nothing that the other tests say counts.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::fs;

use netns_tests::peer::Pinged;
use netns_tests::{OUTSIDE, World, dataplane};

#[test]
fn nodes_and_the_host_outside_reach_each_other() {
    let world = World::new();
    let (a, b) = (world.node(1), world.node(2));
    let _server = b.serve("b", &["tcp:80", "udp:53"]);
    let (answer, from) = a.ask("tcp", "172.30.0.12:80").unwrap();
    assert_eq!((answer.who.as_str(), answer.client.ip()), ("b", a.address.into()));
    assert_eq!(from.to_string(), "172.30.0.12:80");
    let (answer, from) = world.outside.ask("udp", "172.30.0.12:53").unwrap();
    assert_eq!((answer.who.as_str(), answer.client.ip()), ("b", OUTSIDE.into()));
    assert_eq!(from.to_string(), "172.30.0.12:53");
    assert_eq!(a.ask("tcp", "172.30.0.12:81"), Err("ConnectionRefused".into()));
    assert_eq!(a.ping("172.30.0.12", 4000), Pinged::Reply(4000));
    assert_eq!(a.ping("10.1.2.3", 56), Pinged::Error(3, 0), "a router knows no such network");
    assert_eq!(a.upload("172.30.0.12:80", 1 << 20), Ok(1 << 20));
}

#[test]
fn the_kernel_finds_the_path_mtu_through_the_narrow_link() {
    let world = World::with_narrow_link(1280);
    let node = world.node(1);
    let _server = world.outside.serve("outside", &["tcp:80"]);
    let server = format!("{OUTSIDE}:80");
    assert_eq!(node.download(&server, 1 << 20), Ok(1 << 20));
    assert_eq!(node.upload(&server, 1 << 20), Ok(1 << 20));
}

#[test]
fn a_held_connection_tells_how_it_fared() {
    let world = World::new();
    let node = world.node(1);
    let _server = world.outside.serve("outside", &["tcp:80", "udp:53"]);
    for (how, port) in [("tcp", 80), ("connect", 80), ("udp", 53), ("udp-connected", 53)] {
        let held: netns_tests::peer::Held = node.hold(how, &format!("{OUTSIDE}:{port}")).finish();
        assert!(held.rounds >= 1 && held.failed.is_empty(), "{how}: {held:?}");
        assert_eq!(held.servers, ["outside"]);
    }
}

#[test]
fn each_node_has_its_own_pins_and_nothing_stays() {
    let pins = || fs::read_dir("/sys/fs/bpf").map_or(0, Iterator::count);
    let before = pins();
    let world = World::new();
    let (a, b) = (world.node(1), world.node(2));
    dataplane::load(&a);
    assert_eq!(dataplane::endpoints(&a), 0);
    let programs = |node: &netns_tests::Node| {
        node.spaces
            .run(|| fs::read_dir("/sys/fs/bpf/sluice/v2/programs").map_or(0, Iterator::count))
    };
    assert_eq!((programs(&a), programs(&b)), (12, 0));
    assert_eq!(pins(), before, "pins show in the test's own mounts");
    let group = a.cgroup_root().to_owned();
    let pod = a.sandbox("default/web");
    let _server = a.serve("a", &["tcp:80"]);
    drop((world, a, b, pod));
    assert!(!group.exists(), "what ran on the node ended with it");
}
