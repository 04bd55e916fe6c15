//! What ADD creates in the kernel, and that CHECK detects every change of it.

use netns_tests::cni::code;
use netns_tests::{dataplane, ip, ip_json};
use serde_json::{Value, json};

use crate::{assert_no_pod, devices, leases, node, pod_devices_and_routes, with};

#[test]
fn add_creates_devices_addresses_routes_programs_and_map_entry() {
    let (_topology, node) = node();
    // The default of systemd for new links.
    node.sysctl("net/ipv4/conf/default/rp_filter", "1");
    let pod = node.pod("default/web-0");
    let (inside, host) = (&pod.sandbox.namespaces, pod.host_device());
    assert!(host.starts_with("slc") && host.len() <= 15, "{host}");
    assert_eq!(
        pod.address.to_string(),
        "10.244.1.2",
        "the first address after network and gateway"
    );

    let eth0 = &ip_json(inside, "addr show dev eth0")[0];
    assert_eq!(eth0["operstate"], "UP");
    assert_eq!(eth0["mtu"], 1500);
    assert_eq!(eth0["addr_info"][0]["local"], json!(pod.address));
    assert_eq!(eth0["addr_info"][0]["prefixlen"], 32);
    let veth = &ip_json(&node.namespaces, &format!("link show dev {host}"))[0];
    assert_eq!(veth["operstate"], "UP");
    let alias = veth["ifalias"].as_str().unwrap();
    assert!(alias.contains("default/web-0"), "{alias}");

    // udev does not change addresses that were set explicitly (NET_ADDR_SET).
    for (namespaces, device) in [(inside, "eth0"), (&node.namespaces, host)] {
        let links = ip_json(namespaces, &format!("link show dev {device}"));
        let mac = links[0]["address"].as_str().unwrap();
        let first = u8::from_str_radix(&mac[..2], 16).unwrap();
        assert_eq!(first & 3, 2, "{device}: {mac} is not locally administered unicast");
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

    let route = &ip_json(&node.namespaces, &format!("route show {}", pod.address))[0];
    assert_eq!((&route["dev"], &route["scope"]), (&json!(host), &json!("link")));
    assert_eq!(route["protocol"], "83");
    let neighbour = &ip_json(&node.namespaces, &format!("neigh show {}", pod.address))[0];
    assert_eq!(neighbour["lladdr"], eth0["address"]);
    assert_eq!(neighbour["state"], json!(["PERMANENT"]));
    let sysctl = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{host}/{name}");
        node.namespaces.run(|| std::fs::read_to_string(path).unwrap()).trim().to_owned()
    };
    assert_eq!((sysctl("rp_filter"), sysctl("forwarding")), ("0".into(), "1".into()));

    assert_eq!(dataplane::programs(&node, host), (vec!["from_pod".into()], vec!["to_pod".into()]));
    let entry = dataplane::local_pod(&node, pod.address).unwrap();
    assert_eq!(u64::from(entry.ifindex), veth["ifindex"].as_u64().unwrap());
    let mac = |bytes: [u8; 6]| bytes.map(|b| format!("{b:02x}")).join(":");
    assert_eq!(json!(mac(entry.pod_mac)), eth0["address"]);
    assert_eq!(json!(mac(entry.host_mac)), veth["address"]);

    node.cni("DEL", &pod.sandbox).ok();
    assert_no_pod(&node);
    assert_eq!(devices(inside), ["lo"]);
}

#[test]
fn mtu_is_that_of_the_uplink_unless_configured() {
    let (_topology, node) = node();
    for (uplink, configured, want) in [
        (1400, Value::Null, 1400),
        (1300, json!(0), 1300),
        (1500, json!(1280), 1280),
        (1500, json!(68), 68),
        (1500, json!(65_535), 65_535),
    ] {
        ip(&node.namespaces, &format!("link set eth0 mtu {uplink}"));
        let sandbox = node.sandbox("default/web");
        let config = with(&node.config(), "mtu", configured);
        let result = node.cni_with("ADD", &config, &sandbox).ok();
        assert_eq!(result["interfaces"][0]["mtu"], want);
        assert_eq!(ip_json(&sandbox.namespaces, "link show dev eth0")[0]["mtu"], want);
    }
}

#[test]
fn check_detects_every_changed_part() {
    // Namespace, command ({host}: host device, {pod}: pod address), a word of the message.
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
        ("node", "link set {host} address 02:00:00:00:00:01", "MAC"),
        ("pod", "route replace default dev eth0", "route"),
    ];
    let (_topology, node) = node();
    for (namespace, change, word) in cases {
        let pod = node.pod("default/web");
        let fill = |text: &str| {
            text.replace("{host}", pod.host_device()).replace("{pod}", &pod.address.to_string())
        };
        let config = with(&node.config(), "prevResult", pod.result.clone());
        let check = || node.cni_with("CHECK", &config, &pod.sandbox);
        check().ok();
        let namespaces =
            if namespace == "pod" { &pod.sandbox.namespaces } else { &node.namespaces };
        if change.contains("eth9") {
            ip(namespaces, "link set eth0 down");
        }
        ip(namespaces, &fill(change));
        let output = check();
        output.error(code::CHECK_FAILED, &["default/web", &fill(word)]);
        node.cni("DEL", &pod.sandbox).ok();
    }
    assert_no_pod(&node);
}

#[test]
fn check_detects_missing_programs_map_entry_and_dataplane() {
    let (_topology, node) = node();
    let pod = node.pod("default/web");
    let config = with(&node.config(), "prevResult", pod.result.clone());
    let check = || node.cni_with("CHECK", &config, &pod.sandbox);
    check().ok();
    dataplane::detach(&node, pod.host_device());
    check().error(code::CHECK_FAILED, &["default/web", "from_pod", pod.host_device()]);

    let other = node.pod("default/other");
    let config = with(&node.config(), "prevResult", other.result.clone());
    let check = || node.cni_with("CHECK", &config, &other.sandbox);
    dataplane::delete_local_pod(&node, other.address);
    check().error(code::CHECK_FAILED, &["default/other", &other.address.to_string()]);
    dataplane::unload(&node);
    check().error(code::CHECK_FAILED, &["default/other", "dataplane"]);
}

#[test]
fn add_without_a_dataplane_fails_and_creates_nothing() {
    let (_topology, node) = node();
    dataplane::unload(&node);
    let sandbox = node.sandbox("default/web");
    let output = node.cni("ADD", &sandbox);
    output.error(code::TRY_AGAIN_LATER, &["default/web", "dataplane", "agent"]);
    assert_eq!(pod_devices_and_routes(&node), (vec![], 0));
    assert_eq!(leases(&node), []);
    assert_eq!(devices(&sandbox.namespaces), ["lo"]);
    // The same call succeeds once an agent has loaded it.
    dataplane::load(&node);
    node.cni("ADD", &sandbox).ok();
}
