//! What is hard on packets: fragments, narrow links, forged sources, free addresses.

use netns_tests::manifest::{service, service_with, slice_of};
use netns_tests::peer::{Pinged, Place};
use netns_tests::{OUTSIDE, World, dataplane, eventually};
use sluice_abi::DropReason;

use crate::{two, two_in};

const VIP: &str = "10.96.9.9";

#[test]
fn large_datagrams_arrive_whole() {
    let t = two();
    let (web, far) = (t.a.pod("default/web"), t.b.pod("default/far"));
    let client = t.a.pod("default/client");
    let _servers = [web.serve("web", &["udp:5353"]), far.serve("far", &["udp:5353"])];
    t.world.apply("near", &service_with("near", VIP, &["udp:53->5353"], &[&web]));
    t.world.apply("far", &service_with("far", "10.96.9.10", &["udp:53->5353"], &[&far]));
    for (what, place) in [("sockets", client.place.clone()), ("packets", client.without_hooks())] {
        for target in [web.at(5353), far.at(5353), format!("{VIP}:53"), "10.96.9.10:53".into()] {
            eventually(&target, || place.ask("udp", &target));
            for size in ["8000", "30000"] {
                let asked = place.ask_with("udp", &target, &["--size", size, "--times", "5"]);
                for answer in asked {
                    let (_, from) = answer.unwrap_or_else(|e| panic!("{what}, {target}: {e}"));
                    assert_eq!(from.to_string(), target);
                }
            }
        }
    }
}

#[test]
fn pods_find_the_path_mtu_of_a_narrow_link() {
    let t = two_in(World::with_narrow_link(1280));
    let pod = t.a.pod("default/client");
    let _server = t.world.outside.serve("outside", &["tcp:8080"]);
    let yaml = [
        service("outside", VIP, &["tcp:80->8080"]),
        slice_of("outside-a", "outside", &["tcp:80->8080"], &[OUTSIDE.to_string()]),
    ];
    t.world.apply("outside", &yaml.join("---"));
    const BULK: usize = 4 << 20;
    let service = format!("{VIP}:80");
    for (what, place) in [("sockets", pod.place.clone()), ("packets", pod.without_hooks())] {
        eventually("the Service", || place.ask("tcp", &service));
        // What the first of them learns, all know for ten minutes: forget it.
        for target in [format!("{OUTSIDE}:8080"), service.clone()] {
            netns_tests::ip(&pod.sandbox.spaces, "route flush cache");
            netns_tests::ip(&t.a.spaces, "route flush cache");
            assert_eq!(place.upload(&target, BULK), Ok(BULK), "{what}, upload to {target}");
            assert_eq!(place.download(&target, BULK), Ok(BULK), "{what}, download from {target}");
        }
    }
    // Larger than the link and not to be fragmented on the way: the first one tells the pod.
    netns_tests::ip(&pod.sandbox.spaces, "route flush cache");
    netns_tests::ip(&t.a.spaces, "route flush cache");
    assert_eq!(pod.ping(&OUTSIDE.to_string(), 1300), Pinged::Error(3, 4));
    assert_eq!(pod.ping(&OUTSIDE.to_string(), 1300), Pinged::Reply(1300));
}

#[test]
fn a_pod_cannot_send_from_an_address_that_is_not_its_own() {
    let t = two();
    let (pod, near, far) =
        (t.a.pod("default/web"), t.a.pod("default/near"), t.b.pod("default/far"));
    let spoofed = || dataplane::counter(&t.a, DropReason::Spoofed.counter_index());
    let before = spoofed();
    let targets =
        [&near.place as &Place, &far.place, &t.a, &t.world.outside].map(|p| p.collect(7777));
    let addresses = [near.address, far.address, t.a.address, OUTSIDE];
    let forged = [
        near.address.to_string(),
        t.a.address.to_string(),
        "10.244.1.250".into(),
        "8.8.8.8".into(),
    ];
    let mut sent = 0;
    for mut target in targets.into_iter().zip(addresses) {
        let destination = format!("{}:7777", target.1);
        for source in &forged {
            if *source != target.1.to_string() {
                pod.spoof(source, &destination);
                sent += 1;
            }
        }
        // Datagrams do not overtake each other here: the first that arrives is the honest one.
        pod.spoof(&pod.address.to_string(), &destination);
        let seen = target.0.line();
        let honest = if target.1 == OUTSIDE { t.a.address } else { pod.address };
        assert_eq!(seen, honest.to_string(), "to {destination}");
    }
    assert_eq!(spoofed() - before, sent);
}

#[test]
fn a_free_address_is_an_error_and_not_a_loop() {
    let t = two();
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    for (what, place) in [
        ("pod", &near.place),
        ("pod elsewhere", &far.place),
        ("node", &*t.a),
        ("other node", &*t.b),
    ] {
        for address in ["10.244.1.200", "10.244.1.1", "10.96.200.200"] {
            if what != "pod" && address == "10.244.1.1" {
                continue;
            }
            match place.ping(address, 56) {
                Pinged::Error(11, _) => panic!("{what}: a ping to {address} went round"),
                Pinged::Reply(_) => panic!("{what}: {address} answered"),
                Pinged::Error(..) | Pinged::Nothing => {}
            }
        }
    }
}

#[test]
fn strict_reverse_path_filters_do_no_harm() {
    let world = World::new();
    let node = world.node(1);
    // What systemd sets: for every new link, pods' veths included.
    node.sysctl("net/ipv4/conf/default/rp_filter", "1");
    node.sysctl("net/ipv4/conf/eth0/rp_filter", "1");
    let _agent = node.agent();
    let (web, client) = (node.pod("default/web"), node.pod("default/client"));
    let _servers = [web.serve("web", &["tcp:80"]), world.outside.serve("outside", &["tcp:80"])];
    for place in [&client.place, &*node] {
        assert!(place.ask("tcp", &web.at(80)).is_ok());
        assert!(place.ask("tcp", &format!("{OUTSIDE}:80")).is_ok());
    }
}

#[test]
fn a_firewall_that_drops_what_conntrack_calls_invalid_does_no_harm() {
    let t = two();
    for node in [&t.a, &t.b] {
        for rule in ["INPUT", "FORWARD", "OUTPUT"] {
            let drop = ["-A", rule, "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"];
            let status = node.spaces.command("iptables").args(drop).status();
            assert!(status.expect("iptables").success(), "iptables {drop:?}");
        }
    }
    let (web, far) = (t.a.pod("default/web"), t.b.pod("default/far"));
    let client = t.a.pod("default/client");
    let _servers = [
        web.serve("web", &["tcp:80"]),
        far.serve("far", &["tcp:80"]),
        t.world.outside.serve("outside", &["tcp:80"]),
        t.a.serve("node1", &["tcp:8000"]),
    ];
    const BULK: usize = 4 << 20;
    for place in [&client.place, &far.place, &*t.a, &*t.b] {
        for target in [web.at(80), far.at(80), format!("{OUTSIDE}:80")] {
            assert_eq!(place.download(&target, BULK), Ok(BULK), "{target}");
            assert_eq!(place.upload(&target, BULK), Ok(BULK), "{target}");
        }
    }
    assert!(client.ask("tcp", &format!("{}:8000", t.a.address)).is_ok());
}
