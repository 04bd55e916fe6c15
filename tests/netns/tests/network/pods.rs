//! Pods, nodes and the world outside, without any Service.

use netns_tests::OUTSIDE;
use netns_tests::peer::Pinged;

use crate::two;

#[test]
fn everyone_reaches_everyone_by_address() {
    let t = two();
    let (web, near, far) =
        (t.a.pod("default/web"), t.a.pod("default/near"), t.b.pod("default/far"));
    let _servers = [
        web.serve("web", &["tcp:80", "udp:53"]),
        far.serve("far", &["tcp:80", "udp:53"]),
        t.a.serve("node1", &["tcp:8000"]),
        t.b.serve("node2", &["tcp:8000"]),
    ];
    let node = |n: &netns_tests::Node| format!("{}:8000", n.address);
    // Who asks whom, who answers, and whom the server takes the client for.
    let cases = [
        ("pod to pod on its node", &*near, web.at(80), "web", near.address),
        ("pod to pod on another node", &*near, far.at(80), "far", near.address),
        ("pod to itself", &*web, web.at(80), "web", web.address),
        ("pod to its node", &*near, node(&t.a), "node1", near.address),
        ("pod to another node", &*near, node(&t.b), "node2", near.address),
        ("node to its pod", &*t.a, web.at(80), "web", t.a.address),
        ("node to a pod elsewhere", &*t.a, far.at(80), "far", t.a.address),
    ];
    for (what, client, server, who, seen) in cases {
        let how = if server.ends_with(":8000") { &["tcp"][..] } else { &["tcp", "udp"] };
        for how in how {
            let server = if *how == "udp" { server.replace(":80", ":53") } else { server.clone() };
            let (answer, from) =
                client.ask(how, &server).unwrap_or_else(|e| panic!("{what}, {how}: {e}"));
            assert_eq!(answer.who, who, "{what}, {how}");
            assert_eq!(answer.client.ip(), seen, "{what}, {how}");
            assert_eq!(from.to_string(), server, "{what}, {how}");
        }
    }
    for (what, client, address) in [
        ("on its node", &*near, web.address),
        ("on another node", &*near, far.address),
        ("its node", &*near, t.a.address),
        ("another node", &*near, t.b.address),
        ("from the node", &*t.a, web.address),
    ] {
        for size in [56, 4000] {
            let pinged = client.ping(&address.to_string(), size);
            assert_eq!(pinged, Pinged::Reply(size), "ping {what}");
        }
    }
    assert_eq!(near.ask("tcp", &web.at(81)), Err("ConnectionRefused".into()));
    assert_eq!(near.ask("tcp", &far.at(81)), Err("ConnectionRefused".into()));
}

#[test]
fn the_outside_sees_the_node() {
    let t = two();
    let pod = t.a.pod("default/web");
    let _server = t.world.outside.serve("outside", &["tcp:80", "udp:53"]);
    for (how, port) in [("tcp", 80), ("udp", 53), ("udp-connected", 53)] {
        let server = format!("{OUTSIDE}:{port}");
        let (answer, from) = pod.ask(how, &server).unwrap_or_else(|e| panic!("{how}: {e}"));
        assert_eq!(answer.client.ip(), t.a.address, "{how}");
        assert!(answer.client.port() >= 61_000, "{how}: {}", answer.client);
        assert_eq!(from.to_string(), server);
    }
    for size in [56, 4000] {
        assert_eq!(pod.ping(&OUTSIDE.to_string(), size), Pinged::Reply(size));
    }
    assert_eq!(pod.ask("tcp", &format!("{OUTSIDE}:81")), Err("ConnectionRefused".into()));
    // Nothing outside is reached by a route to the pod: masquerade is the only way back.
    let large = pod.ask_with("udp", &format!("{OUTSIDE}:53"), &["--size", "8000"]);
    assert!(large[0].is_ok(), "fragments both ways: {large:?}");
}
