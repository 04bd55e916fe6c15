//! Live leases, rows and rebuilt leases from given devices.

use std::net::Ipv4Addr;

use super::*;
use crate::lease::Number;
use crate::lease::fixture::{self, at};

fn lease(container_id: &str, since: BootInstant) -> Lease {
    Lease { since, ..fixture::lease(container_id) }
}

fn link(index: u32, lease: &Lease) -> Link {
    let (host_mac, _) = identity::macs(&lease.key);
    Link {
        index,
        name: lease.host_ifname.clone(),
        mac: Some(host_mac),
        alias: Some(identity::alias(lease)),
        mtu: 1500,
        up: true,
        layer: crate::device::LinkLayer::Ethernet,
        loopback: false,
        master: None,
        veth: false,
        vlan_of: None,
    }
}

fn route(oif: u32) -> Route {
    let dst = Ipv4Addr::new(10, 244, 1, 7);
    Route { dst, prefix: 32, gateway: None, oif, protocol: ROUTE_PROTOCOL, priority: 0 }
}

#[test]
fn a_lease_without_a_device_is_live_while_its_add_can_run() {
    let none = HostLinks::from_links(Vec::new());
    let lease = lease("c1", at(1000));
    for (now, live) in [
        (at(1000), true),
        (at(1001), true),
        (at(1000 + ADD_LIMIT_SECONDS - 1), true),
        (at(1000 + ADD_LIMIT_SECONDS), false),
        (at(1000 + ADD_LIMIT_SECONDS + 1), false),
        // A lease from before a reboot, independent of its apparent age.
        (BootInstant { boot_id: "two".into(), seconds: 1001 }, false),
        (BootInstant { boot_id: "two".into(), seconds: 5 }, false),
    ] {
        assert_eq!(none.is_live(&lease, &now, |_| false), live, "{now:?}");
    }
    // Runtimes give up an ADD after minutes; nothing depends on it.
    assert!((60..=600).contains(&ADD_LIMIT_SECONDS));
}

#[test]
fn a_lease_without_a_device_is_live_while_its_network_namespace_exists() {
    let none = HostLinks::from_links(Vec::new());
    let lease = lease("c1", at(1000));
    for now in [at(1000 + ADD_LIMIT_SECONDS), at(1_000_000)] {
        assert!(none.is_live(&lease, &now, |_| true), "{now:?}");
        assert!(!none.is_live(&lease, &now, |_| false), "{now:?}");
    }
    // The path can lead to another namespace after a reboot.
    let rebooted = BootInstant { boot_id: "two".into(), seconds: 1001 };
    assert!(!none.is_live(&lease, &rebooted, |_| true));
    // Namespaces of pods with a device are not opened.
    let links = HostLinks::from_links(vec![link(12, &lease)]);
    assert!(links.is_live(&lease, &at(1_000_000), |_| unreachable!("opened")));
}

#[test]
fn a_lease_with_a_device_is_live_at_any_age() {
    let lease = lease("c1", at(1000));
    let links = HostLinks::from_links(vec![link(12, &lease)]);
    for now in [at(1000), at(100_000), BootInstant { boot_id: "two".into(), seconds: 5 }] {
        assert!(links.is_live(&lease, &now, |_| false), "{now:?}");
    }
    let other = self::lease("c2", at(1000));
    assert!(!links.is_live(&other, &at(100_000), |_| false), "the device of another attachment");
    let mut foreign = link(12, &lease);
    foreign.name = "eth0".into();
    let mut renamed = lease.clone();
    renamed.host_ifname = "eth0".into();
    assert!(HostLinks::from_links(vec![foreign]).of(&renamed).is_none(), "not a pod's device");
}

#[test]
fn rows_are_those_of_leases_with_a_device() {
    let (a, b) = (lease("c1", at(1)), lease("c2", at(1)));
    let links = HostLinks::from_links(vec![link(12, &a)]);
    let (host_mac, pod_mac) = identity::macs(&a.key);
    let (index, generation) = (a.index as u16, local_pod(&a, &link(12, &a)).generation);
    let namespace = sluice_abi::namespace_id("default");
    let row = LocalPod { namespace, ifindex: 12, pod_mac, host_mac, index, generation, pad: 0 };
    assert_eq!(links.local_pods(&[a.clone(), b]), [(a.address.into(), row)]);
    // The frame's source is the device's address, also if other software changed it.
    let mut changed = link(12, &a);
    changed.mac = Some([2, 0, 0, 0, 0, 1]);
    assert_eq!(local_pod(&a, &changed).host_mac, [2, 0, 0, 0, 0, 1]);
    changed.mac = None;
    assert_eq!(local_pod(&a, &changed).host_mac, host_mac);
}

#[test]
fn generation_of_a_row_is_never_zero_and_differs_between_leases() {
    let of = |generation| {
        let lease = Lease { generation, ..lease("c1", at(1)) };
        local_pod(&lease, &link(12, &lease)).generation
    };
    for generation in [1, 0xfffe, 0xffff, 0x1_0000, 0x1_fffe, u32::MAX] {
        assert_ne!(of(generation), 0, "{generation}");
        assert_ne!(of(generation), of(generation - 1), "{generation}");
    }
}

#[test]
fn leases_are_rebuilt_from_devices_with_a_route() {
    let now = at(50);
    let lease = lease("c1", now.clone());
    let links = HostLinks::from_links(vec![link(12, &lease)]);
    let rebuilt = |routes: &[Route]| drafts_from(&links, routes, "sluice", &now);
    let number = Number { index: lease.index, generation: lease.generation };
    // What the devices do not show.
    let known = Lease {
        index: 0,
        generation: 0,
        netns: String::new(),
        host_ports: None,
        netns_cookie: None,
        ..lease.clone()
    };
    let draft = Draft { lease: known, number: Some(number) };
    assert_eq!(rebuilt(&[route(12)]), std::slice::from_ref(&draft));
    // The device of a former version has no number.
    let mut former = link(12, &lease);
    former.alias = Some("default/web-0 eth0 c1".to_owned());
    let drafts = drafts_from(&HostLinks::from_links(vec![former]), &[route(12)], "sluice", &now);
    assert_eq!(drafts, [Draft { number: None, ..draft }]);
    for other in [
        Route { oif: 13, ..route(12) },
        Route { prefix: 24, ..route(12) },
        Route { protocol: 3, ..route(12) },
    ] {
        assert_eq!(rebuilt(&[other]), [], "{other:?}");
    }
    assert_eq!(rebuilt(&[]), []);
    let mut anonymous = link(12, &lease);
    anonymous.alias = None;
    let links = HostLinks::from_links(vec![anonymous]);
    assert_eq!(drafts_from(&links, &[route(12)], "sluice", &now), []);
}
