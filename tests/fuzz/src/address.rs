//! Addresses and CIDRs of API objects, and the pod range of the CNI configuration.
//!
//! What the standard library parses has the same value here, and what parses is printed in a form
//! that parses to the same value.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use sluice_core::model::{parse_cidr, parse_ip};
use sluice_pod::lease::Subnet;

pub(super) fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let address = parse_ip(text);
    if let Ok(standard) = text.parse::<IpAddr>() {
        assert_eq!(address, Some(standard.to_canonical()));
    }
    if let Some(address) = address {
        assert_eq!(address, address.to_canonical());
        assert_eq!(parse_ip(&address.to_string()), Some(address));
    }
    cidr(text);
    subnet(text);
}

fn cidr(text: &str) {
    let net = parse_cidr(text);
    let parts = text.split_once('/').and_then(|(address, length)| {
        Some((address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?))
    });
    if let Some((address, length)) = parts.filter(|_| !text.contains('+')) {
        let is_mapped = address.is_ipv6() && address.to_canonical().is_ipv4();
        // A mapped prefix that covers more than the mapped addresses has no IPv4 form.
        let length = if is_mapped { length.checked_sub(96) } else { Some(length) };
        let standard = length.and_then(|length| IpNet::new(address.to_canonical(), length).ok());
        assert_eq!(net, standard.map(|net| net.trunc()));
    }
    if let Some(net) = net {
        assert_eq!(net, net.trunc());
        assert_eq!(parse_cidr(&net.to_string()), Some(net));
        // A mapped network in its hexadecimal form equals the dotted one.
        if let IpNet::V4(v4) = net {
            let [a, b, c, d, e, f, g, h] = v4.addr().to_ipv6_mapped().segments();
            let hexadecimal = format!("{a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x}:{g:x}:{h:x}");
            assert!(hexadecimal.parse::<Ipv6Addr>().is_ok());
            let length = v4.prefix_len() + 96;
            assert_eq!(parse_cidr(&format!("{hexadecimal}/{length}")), Some(net));
        }
    }
}

fn subnet(text: &str) {
    let Ok(subnet) = text.parse::<Subnet>() else { return };
    assert_eq!(subnet.to_string().parse(), Ok(subnet));
    assert_eq!(parse_cidr(&subnet.to_string()).unwrap().to_string(), subnet.to_string());
    assert!(subnet.contains(subnet.first()) && subnet.contains(subnet.last()));
    let prefix: u32 = subnet.to_string().rsplit('/').next().unwrap().parse().unwrap();
    // All but the network address, that of the node and the broadcast address.
    assert_eq!(subnet.capacity(), (1 << (32 - prefix)) - 3);
}
