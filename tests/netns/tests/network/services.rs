//! ClusterIP Services, by the socket programs and by the packet path.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use netns_tests::manifest::{service, service_with, slice_of};
use netns_tests::peer::{Asked, Held, Place};
use netns_tests::{OUTSIDE, Pod, eventually};

use crate::{Two, two};

/// The address that the Services of these tests have.
const VIP: &str = "10.96.7.7";
/// Ports of the Service: what clients ask for, and what the pods listen on.
const PORTS: [&str; 3] = ["tcp:80->8080", "tcp:81->8081", "udp:53->5353"];
/// What its pods serve.
const SERVED: [&str; 3] = ["tcp:8080", "tcp:8081", "udp:5353"];

/// Every way to ask, with the port it goes to.
const WAYS: [(&str, u16); 3] = [("tcp", 80), ("udp", 53), ("udp-connected", 53)];

fn vip(port: u16) -> String {
    format!("{VIP}:{port}")
}

/// Asks until something that is no answer of an older state comes back.
fn until(client: &Place, how: &str, port: u16, wanted: impl Fn(&Asked) -> bool) {
    eventually(&format!("{how} {}", vip(port)), || {
        let asked = client.ask(how, &vip(port));
        if wanted(&asked) { Ok(()) } else { Err(format!("{asked:?}")) }
    });
}

/// Waits until the Service answers here.
fn answers(client: &Place, how: &str, port: u16) {
    until(client, how, port, Result::is_ok);
}

/// Clients of every kind: what the socket programs see, and what only the packet path sees.
fn clients(t: &Two, near: &Pod, far: &Pod) -> Vec<(&'static str, Place)> {
    vec![
        ("pod, sockets", near.place.clone()),
        ("pod, packets", near.without_hooks()),
        ("pod elsewhere, sockets", far.place.clone()),
        ("pod elsewhere, packets", far.without_hooks()),
        ("node, sockets", (*t.a).clone()),
    ]
}

#[test]
fn a_cluster_ip_serves_every_kind_of_client() {
    let t = two();
    let backends = [t.a.pod("default/web-0"), t.b.pod("default/web-1")];
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let _servers = [backends[0].serve("web-0", &SERVED), backends[1].serve("web-1", &SERVED)];
    t.world.apply("web", &service_with("web", VIP, &PORTS, &[&backends[0], &backends[1]]));
    for (what, client) in clients(&t, &near, &far) {
        for (how, port) in WAYS {
            answers(&client, how, port);
            let mut seen = BTreeSet::new();
            for asked in client.ask_times(how, &vip(port), 40) {
                let (answer, from) = asked.unwrap_or_else(|e| panic!("{what}, {how}: {e}"));
                assert_eq!(from.to_string(), vip(port), "{what}, {how}: the peer is the Service");
                seen.insert(answer.who);
            }
            assert_eq!(seen.len(), 2, "{what}, {how}: {seen:?}");
        }
        // The pod's own address reaches the backend.
        let (answer, _) = client.ask("tcp", &vip(81)).unwrap();
        assert_eq!(answer.server.port(), 8081, "{what}");
        assert!(!answer.client.ip().to_string().starts_with("10.96."), "{what}");
    }
    let (answer, _) = near.ask("tcp", &vip(80)).unwrap();
    assert_eq!(answer.client.ip(), near.address);
    let (answer, _) = near.without_hooks().ask("tcp", &vip(80)).unwrap();
    assert_eq!(answer.client.ip(), near.address);
}

#[test]
fn without_endpoints_the_client_is_refused_at_once() {
    let t = two();
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    t.world.apply("web", &service_with("web", VIP, &PORTS, &[]));
    let refused: Asked = Err("ConnectionRefused".into());
    for (what, client) in clients(&t, &near, &far) {
        for (how, port) in [("tcp", 80), ("udp-connected", 53)] {
            until(&client, how, port, |asked| *asked == refused);
            let start = Instant::now();
            assert_eq!(client.ask(how, &vip(port)), refused, "{what}, {how}");
            let took = start.elapsed();
            // An ICMP error that comes back while connect(2) is still at work counts only at the
            // second SYN, a second later (tcp_v4_err in the kernel).
            let packets = what.ends_with("packets") && how == "tcp";
            let limit = Duration::from_millis(if packets { 1800 } else { 500 });
            assert!(took < limit, "{what}, {how}: {took:?}");
        }
    }
}

#[test]
fn a_port_that_the_service_lacks_is_refused_and_a_free_address_is_silent() {
    let t = two();
    let web = t.a.pod("default/web");
    let client = t.a.pod("default/client");
    let _server = web.serve("web", &SERVED);
    t.world.apply("web", &service_with("web", VIP, &PORTS, &[&web]));
    for place in [client.place.clone(), client.without_hooks()] {
        answers(&place, "tcp", 80);
        assert_eq!(place.ask("tcp", &vip(82)), Err("ConnectionRefused".into()));
        assert!(place.ask("tcp", "10.96.250.250:80").is_err());
        // The pod's port is not the Service's.
        assert_eq!(place.ask("tcp", &vip(8080)), Err("ConnectionRefused".into()));
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let t = two();
    let web = t.a.pod("default/web");
    let _server = web.serve("web", &SERVED);
    t.world.apply("web", &service_with("web", VIP, &PORTS, &[&web]));
    for (what, client) in [("sockets", web.place.clone()), ("packets", web.without_hooks())] {
        for (how, port) in WAYS {
            answers(&client, how, port);
            for asked in client.ask_times(how, &vip(port), 10) {
                let (answer, from) = asked.unwrap_or_else(|e| panic!("{what}, {how}: {e}"));
                assert_eq!((answer.who.as_str(), from.to_string()), ("web", vip(port)), "{what}");
            }
        }
    }
}

#[test]
fn changes_of_a_service_are_followed() {
    let t = two();
    let pods: Vec<_> = (0..3).map(|n| t.b.pod(&format!("default/web-{n}"))).collect();
    let _servers: Vec<_> =
        pods.iter().enumerate().map(|(n, p)| p.serve(&format!("web-{n}"), &SERVED)).collect();
    // A pod of its own for the packet path, which may give a connection the tuple of one that it
    // does not know of.
    let client = t.a.pod("default/client");
    let unseen = t.a.pod("default/unseen").without_hooks();
    let all = |place: &Place| -> Result<BTreeSet<String>, String> {
        place.ask_times("tcp", &vip(80), 30).into_iter().map(|asked| Ok(asked?.0.who)).collect()
    };
    let serve = |who: &[usize]| {
        let backends: Vec<&Pod> = who.iter().map(|n| &pods[*n]).collect();
        t.world.apply("web", &service_with("web", VIP, &PORTS, &backends));
        let want: BTreeSet<String> = who.iter().map(|n| format!("web-{n}")).collect();
        for place in [&client.place, &unseen] {
            eventually(&format!("{want:?}"), || match all(place) {
                Ok(seen) if seen == want => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    };
    serve(&[0]);
    // An open connection stays where it is, whatever becomes of the Service.
    let held = client.hold("tcp", &vip(80));
    let packets = unseen.hold("tcp", &vip(80));
    for backends in [&[0, 1, 2][..], &[1, 2], &[2]] {
        serve(backends);
    }
    t.world.delete("web");
    until(&client, "tcp", 80, Result::is_err);
    for held in [held, packets] {
        let held: Held = held.finish();
        assert_eq!((held.failed, held.servers), (vec![], vec!["web-0".to_owned()]));
    }
}

#[test]
fn connected_udp_clients_move_on_when_their_backend_goes() {
    let t = two();
    let pods = [t.a.pod("default/dns-0"), t.b.pod("default/dns-1")];
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let _server = pods[1].serve("dns-1", &SERVED);
    let leaving = pods[0].serve("dns-0", &SERVED);
    t.world.apply("dns", &service_with("dns", VIP, &PORTS, &[&pods[0]]));
    let mut clients = vec![];
    for (what, place) in [
        ("pod, sockets", near.place.clone()),
        ("pod, packets", near.without_hooks()),
        ("pod elsewhere, sockets", far.place.clone()),
        ("node, sockets", (*t.a).clone()),
    ] {
        answers(&place, "udp", 53);
        for how in ["udp", "udp-connected"] {
            clients.push((format!("{what}, {how}"), place.hold(how, &vip(53))));
        }
    }
    // The pod is gone, and so is its place in the Service.
    drop(leaving);
    t.a.cni("DEL", &pods[0].sandbox).ok();
    t.world.apply("dns", &service_with("dns", VIP, &PORTS, &[&pods[1]]));
    answers(&near, "udp", 53);
    for (what, client) in clients {
        let moved: Held = client.finish_after("dns-1");
        assert_eq!(moved.servers, ["dns-0", "dns-1"], "{what}: {moved:?}");
    }
}

#[test]
fn one_client_port_to_two_services_of_one_backend() {
    let t = two();
    let web = t.b.pod("default/web");
    let client = t.a.pod("default/client");
    let _server = web.serve("web", &SERVED);
    let other = "10.96.8.8";
    t.world.apply("web", &service_with("web", VIP, &["udp:53->5353"], &[&web]));
    t.world.apply("other", &service_with("other", other, &["udp:53->5353"], &[&web]));
    let services = [vip(53), format!("{other}:53")];
    let all = [&services[..], &[web.at(5353)]].concat();
    // By the packet path the backend's own address must not be asked from the same port too.
    for (place, targets) in [(client.place.clone(), &all[..]), (client.without_hooks(), &services)]
    {
        answers(&place, "udp", 53);
        for target in targets.iter().chain(targets) {
            let asked = eventually("an answer", || {
                place.ask_with("udp", target, &["--from", "4444"]).remove(0)
            });
            assert_eq!(asked.1.to_string(), *target);
        }
    }
}

#[test]
fn one_client_port_connects_again_and_again() {
    let t = two();
    let web = t.b.pod("default/web");
    let client = t.a.pod("default/client");
    let _servers = [web.serve("web", &SERVED), t.world.outside.serve("outside", &["tcp:80"])];
    t.world.apply("web", &service_with("web", VIP, &PORTS, &[&web]));
    for place in [client.place.clone(), client.without_hooks()] {
        answers(&place, "tcp", 80);
        for target in [vip(80), web.at(8080), format!("{OUTSIDE}:80")] {
            let options = ["--from", "5555", "--times", "30"];
            for asked in place.ask_with("tcp", &target, &options) {
                assert!(asked.is_ok(), "{target}: {asked:?}");
            }
        }
    }
}

#[test]
fn hand_made_slices_name_backends_anywhere() {
    let t = two();
    let pod = t.a.pod("default/client");
    let _servers =
        [t.world.outside.serve("outside", &["tcp:8080"]), t.b.serve("node2", &["tcp:9090"])];
    // Several slices, each with a port number of its own, as named target ports make them.
    let yaml = [
        service("web", VIP, &["tcp:80->8080"]),
        slice_of("web-a", "web", &["tcp:80->8080"], &[OUTSIDE.to_string()]),
        slice_of("web-b", "web", &["tcp:80->9090"], &[t.b.address.to_string()]),
    ];
    t.world.apply("web", &yaml.join("---"));
    for place in [pod.place.clone(), pod.without_hooks()] {
        answers(&place, "tcp", 80);
        let mut seen = BTreeSet::new();
        for asked in place.ask_times("tcp", &vip(80), 30) {
            let (answer, _) = asked.unwrap();
            let client = if answer.who == "outside" { t.a.address } else { pod.address };
            assert_eq!(answer.client.ip(), client, "{}", answer.who);
            seen.insert(answer.who);
        }
        assert_eq!(seen.len(), 2, "{seen:?}");
    }
}
