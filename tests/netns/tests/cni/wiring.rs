//! What ADD leaves in the kernel, and that CHECK sees every change of it.

use netns_tests::{Call, dataplane, ip, ip_json};
use serde_json::{Value, json};

use crate::{node, nothing_is_left, with};

#[test]
fn add_makes_everything_a_pod_needs() {
    let (_world, node) = node();
    // What systemd sets on new links.
    node.sysctl("net/ipv4/conf/default/rp_filter", "1");
    let pod = node.pod("default/web-0");
    let (inside, host) = (&pod.sandbox.spaces, pod.host_device());
    assert!(host.starts_with("slc") && host.len() <= 15, "{host}");
    assert_eq!(pod.address.to_string(), "10.244.1.2", "the first one that is not the node's");

    let eth0 = &ip_json(inside, "addr show dev eth0")[0];
    assert_eq!(eth0["operstate"], "UP");
    assert_eq!(eth0["mtu"], 1500);
    assert_eq!(eth0["addr_info"][0]["local"], json!(pod.address));
    assert_eq!(eth0["addr_info"][0]["prefixlen"], 32);
    let veth = &ip_json(&node.spaces, &format!("link show dev {host}"))[0];
    assert_eq!(veth["operstate"], "UP");
    let alias = veth["ifalias"].as_str().unwrap();
    assert!(alias.contains("default/web-0"), "{alias}");

    // udev leaves addresses alone that were set by hand (NET_ADDR_SET).
    for (place, device) in [(inside, "eth0"), (&node.spaces, host)] {
        let kind = place.run(|| {
            let links = ip_json(place, &format!("link show dev {device}"));
            links[0]["address"].as_str().unwrap().to_owned()
        });
        let first = u8::from_str_radix(&kind[..2], 16).unwrap();
        assert_eq!(first & 3, 2, "{device}: {kind} is locally administered, unicast");
    }

    let routes = ip_json(inside, "route show");
    let find =
        |dst: &str| routes.iter().find(|r| r["dst"] == dst).unwrap_or_else(|| panic!("{dst}"));
    assert_eq!(find("default")["gateway"], "169.254.1.1");
    assert_eq!(find("169.254.1.1")["scope"], "link");
    assert_eq!(routes.len(), 2, "{routes:?}");
    let neighbour = &ip_json(inside, "neigh show dev eth0")[0];
    assert_eq!(neighbour["dst"], "169.254.1.1");
    assert_eq!(neighbour["lladdr"], veth["address"]);
    assert_eq!(neighbour["state"], json!(["PERMANENT"]));

    let route = &ip_json(&node.spaces, &format!("route show {}", pod.address))[0];
    assert_eq!((&route["dev"], &route["scope"]), (&json!(host), &json!("link")));
    assert_eq!(route["protocol"], "83");
    let neighbour = &ip_json(&node.spaces, &format!("neigh show {}", pod.address))[0];
    assert_eq!(neighbour["lladdr"], eth0["address"]);
    assert_eq!(neighbour["state"], json!(["PERMANENT"]));
    let switch = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{host}/{name}");
        node.spaces.run(|| std::fs::read_to_string(path).unwrap()).trim().to_owned()
    };
    assert_eq!((switch("rp_filter"), switch("forwarding")), ("0".into(), "1".into()));

    assert_eq!(dataplane::programs(&node, host), (vec!["from_pod".into()], vec!["to_pod".into()]));
    let row = dataplane::endpoint(&node, pod.address).unwrap();
    assert_eq!(u64::from(row.ifindex), veth["ifindex"].as_u64().unwrap());
    let mac = |bytes: [u8; 6]| bytes.map(|b| format!("{b:02x}")).join(":");
    assert_eq!(json!(mac(row.pod_mac)), eth0["address"]);
    assert_eq!(json!(mac(row.host_mac)), veth["address"]);

    node.cni("DEL", &pod.sandbox).ok();
    nothing_is_left(&node);
    assert_eq!(crate::devices(inside), ["lo"]);
}

#[test]
fn the_mtu_is_the_uplinks_unless_given() {
    let (_world, node) = node();
    for (uplink, given, want) in
        [(1400, Value::Null, 1400), (1300, Value::Null, 1300), (1500, json!(1280), 1280)]
    {
        ip(&node.spaces, &format!("link set eth0 mtu {uplink}"));
        let sandbox = node.sandbox("default/web");
        let config = with(&node.config(), "mtu", given);
        let result = Call::for_sandbox("ADD", &config, &sandbox).run(&node.spaces).ok();
        assert_eq!(result["interfaces"][0]["mtu"], want);
        assert_eq!(ip_json(&sandbox.spaces, "link show dev eth0")[0]["mtu"], want);
    }
}

#[test]
fn check_sees_whatever_changed() {
    // What is done inside the pod or on the node ({host}: the device, {pod}: the address), and a
    // word of the message.
    let cases = [
        ("pod", "addr del {pod}/32 dev eth0", "address"),
        ("pod", "route del default", "route"),
        ("pod", "neigh del 169.254.1.1 dev eth0", "neighbour"),
        ("pod", "link set eth0 down", "eth0"),
        ("pod", "link set eth0 name eth9", "eth0"),
        ("node", "link del {host}", "{host}"),
        ("node", "route del {pod}", "route"),
        ("node", "neigh del {pod} dev {host}", "neighbour"),
        ("node", "link set {host} down", "{host}"),
    ];
    let (_world, node) = node();
    for (place, change, word) in cases {
        let pod = node.pod("default/web");
        let fill = |text: &str| {
            text.replace("{host}", pod.host_device()).replace("{pod}", &pod.address.to_string())
        };
        let config = with(&node.config(), "prevResult", pod.result.clone());
        let check = || Call::for_sandbox("CHECK", &config, &pod.sandbox).run(&node.spaces);
        check().ok();
        let place = if place == "pod" { &pod.sandbox.spaces } else { &node.spaces };
        if change.contains("eth9") {
            ip(place, "link set eth0 down");
        }
        ip(place, &fill(change));
        let outcome = check();
        assert_eq!(outcome.code, Some(1), "{change}: {}", outcome.stdout);
        assert!(outcome.stdout.contains(&fill(word)), "{change}: {}", outcome.stdout);
        assert!(outcome.stdout.contains("default/web"), "{change}: {}", outcome.stdout);
        node.cni("DEL", &pod.sandbox).ok();
    }
    nothing_is_left(&node);
}

#[test]
fn check_sees_programs_and_rows_that_are_gone() {
    let (_world, node) = node();
    let pod = node.pod("default/web");
    let config = with(&node.config(), "prevResult", pod.result.clone());
    let check = || Call::for_sandbox("CHECK", &config, &pod.sandbox).run(&node.spaces);
    check().ok();
    dataplane::detach(&node, pod.host_device());
    let outcome = check();
    assert!(
        outcome.stdout.contains("from_pod") || outcome.stdout.contains("program"),
        "{}",
        outcome.stdout
    );
    assert_eq!(outcome.code, Some(1));

    let pod = node.pod("default/other");
    let config = with(&node.config(), "prevResult", pod.result.clone());
    dataplane::forget_endpoint(&node, pod.address);
    Call::for_sandbox("CHECK", &config, &pod.sandbox)
        .run(&node.spaces)
        .error(102, &["default/other"]);
}

#[test]
fn without_a_dataplane_add_fails_closed_and_says_so() {
    let (_world, node) = node();
    dataplane::unload(&node);
    let sandbox = node.sandbox("default/web");
    let outcome = node.cni("ADD", &sandbox);
    assert!(outcome.stdout.contains("default/web"), "{}", outcome.stdout);
    outcome.error(11, &["dataplane is not loaded", "agent"]);
    assert_eq!(crate::traces(&node), (vec![], 0));
    assert_eq!(crate::leases(&node), []);
    assert_eq!(crate::devices(&sandbox.spaces), ["lo"]);
    // Another one works as soon as an agent has been there.
    dataplane::load(&node);
    node.cni("ADD", &sandbox).ok();
}
