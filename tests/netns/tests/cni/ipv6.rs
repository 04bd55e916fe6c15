//! IPv6 of a pod does not reach the node: pods have none.

use netns_tests::cni::code;
use netns_tests::{Node, dataplane, eventually, ip_json};
use serde_json::Value;

use crate::{node, with};

/// A router advertisement of fe80::1 to all nodes: the prefix 2001:db8:1::/64 for address
/// configuration, and a default router for 1,800 s.
fn router_advertisement() -> Vec<u8> {
    let (source, all_nodes) = (address(0xfe80, 1), address(0xff02, 1));
    let mut icmp = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    // Prefix information: 64 bits, on-link and autonomous, lifetimes of a day.
    icmp.extend([3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 1, 0x51, 0x80, 0, 0, 0, 0]);
    icmp.extend([0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let length = u16::try_from(icmp.len()).unwrap();
    let pseudo = [&source[..], &all_nodes, &[0, 0], &length.to_be_bytes(), &[0, 0, 0, 58], &icmp];
    let words = pseudo.concat();
    let mut sum: u32 =
        words.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    icmp[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let ethernet = [0x33, 0x33, 0, 0, 0, 1, 0x0a, 1, 2, 3, 4, 5, 0x86, 0xdd];
    let ipv6 = [0x60, 0, 0, 0, length.to_be_bytes()[0], length.to_be_bytes()[1], 58, 255];
    [&ethernet[..], &ipv6, &source, &all_nodes, &icmp].concat()
}

fn address(first: u16, last: u8) -> [u8; 16] {
    let mut address = [0; 16];
    address[..2].copy_from_slice(&first.to_be_bytes());
    address[15] = last;
    address
}

/// IPv6 addresses and routes of the node by a device.
fn ipv6_of(node: &Node, device: &str) -> (Vec<Value>, Vec<Value>) {
    let mut links = ip_json(&node.namespaces, &format!("-6 addr show dev {device}"));
    links.retain(|link| link["addr_info"].as_array().is_some_and(|all| !all.is_empty()));
    (links, ip_json(&node.namespaces, &format!("-6 route show dev {device}")))
}

#[test]
fn router_advertisement_of_a_pod_changes_nothing_on_the_node() {
    let (_topology, node) = node();
    node.sysctl("net/ipv6/conf/all/disable_ipv6", "0");
    node.sysctl("net/ipv6/conf/default/disable_ipv6", "0");
    node.sysctl("net/ipv6/conf/default/accept_ra", "1");
    let pod = node.pod("default/web");
    let device = pod.host_device();
    assert_eq!(ipv6_of(&node, device), (vec![], vec![]), "a link-local address");
    // The sysctl alone protects the node: the programs are another layer.
    dataplane::detach(&node, device);
    let frame = router_advertisement();
    pod.send_frame("eth0", &frame);
    assert_eq!(ipv6_of(&node, device), (vec![], vec![]));

    // The same frame is accepted where IPv6 is on: the test can fail.
    node.sysctl(&format!("net/ipv6/conf/{device}/disable_ipv6"), "0");
    eventually("the node takes the route of the advertisement", || {
        pod.send_frame("eth0", &frame);
        let (_, routes) = ipv6_of(&node, device);
        match routes.iter().any(|route| route["dst"] == "default") {
            true => Ok(()),
            false => Err(format!("{routes:?}")),
        }
    });
    let config = with(&node.config(), "prevResult", pod.result.clone());
    let check = node.cni_with("CHECK", &config, &pod.sandbox);
    check.error(code::CHECK_FAILED, &["default/web", "disable_ipv6", device]);
}
