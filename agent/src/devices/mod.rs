//! The devices that packets of pods leave by, and the choice of those that get programs. Pure.
//!
//! In: devices, addresses and routes of the node. Out: one [`NodeDevice`] for each device that a
//! packet can be routed to, except loopback, devices of pods, and ports of a bridge or bond, whose
//! packets pass the bridge or bond.
//!
//! A device gets programs if routes of any table but the local one lead to a network by it: the
//! default route, a connected network, a static route, a VPN. A single address without a gateway
//! behind an Ethernet device is a container of other software, whose packets the stack routes.

pub mod xdp;

use std::collections::BTreeSet;
use std::net::IpAddr;

use sluice_pod::device::{Link, LinkLayer};
use sluice_pod::identity::HOST_PREFIX;

use crate::host::{HostState, RouteUses, Uplink};

/// How the devices with programs are chosen. The uplink always has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// Those that routes use.
    Routes,
    /// Those whose name matches one of these patterns, in which `*` is any text.
    Named(Vec<String>),
}

/// A device that packets can leave by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDevice {
    /// The device.
    pub link: Link,
    /// Source of masqueraded flows that leave by it: its own address, else the uplink's.
    pub address: Option<IpAddr>,
    /// What is done with it.
    pub role: Role,
}

/// What is done with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It gets programs, and flows of pods that leave by it are masqueraded with its address.
    Managed,
    /// Routes lead to it, and flows of pods that leave by it keep their source.
    Unmanaged,
    /// No route leads to it.
    Unused,
}

impl NodeDevice {
    /// Whether the device gets programs.
    pub fn is_managed(&self) -> bool {
        self.role == Role::Managed
    }
}

impl DeviceChoice {
    fn includes(&self, link: &Link, uses: &RouteUses) -> bool {
        let used = uses.get(&link.index).copied().unwrap_or_default();
        match (self, link.layer) {
            (_, LinkLayer::Other) => false,
            (DeviceChoice::Routes, LinkLayer::Ethernet) => used.networks,
            (DeviceChoice::Routes, LinkLayer::Ip) => used.networks || used.addresses,
            (DeviceChoice::Named(patterns), _) => {
                patterns.iter().any(|pattern| matches(pattern, &link.name))
            }
        }
    }
}

/// The devices of a node. A device with programs keeps them while it is down, so that it has them
/// when it comes up.
pub fn select(
    host: &HostState,
    choice: &DeviceChoice,
    uplink: &Uplink,
    internal_ips: &[IpAddr],
    attached: &BTreeSet<u32>,
) -> Vec<NodeDevice> {
    let internal = || internal_ips.iter().copied().find(IpAddr::is_ipv4);
    let device = |link: &Link| {
        let included = choice.includes(link, &host.route_uses);
        let kept = *choice == DeviceChoice::Routes && !link.up && attached.contains(&link.index);
        let own = host.address_on(link.index, true, internal_ips);
        let is_uplink = link.index == uplink.link.index;
        let role = if is_uplink || (can_have_programs(link) && (included || kept)) {
            Role::Managed
        } else if host.route_uses.contains_key(&link.index) {
            Role::Unmanaged
        } else {
            Role::Unused
        };
        NodeDevice { link: link.clone(), address: own.or(uplink.v4).or_else(internal), role }
    };
    host.links.iter().filter(|link| !link.name.starts_with(HOST_PREFIX)).map(device).collect()
}

/// Whether a device other than the uplink can have programs: not a port of another device, whose
/// packets have two interfaces.
fn can_have_programs(link: &Link) -> bool {
    !link.loopback && link.master.is_none()
}

/// Whether a name matches a pattern, in which `*` is any text.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            // The rest of the pattern matches some end of the name.
            tail.char_indices()
                .map(|(at, _)| at)
                .chain([tail.len()])
                .any(|at| tail.get(at..).is_some_and(|end| matches(rest, end)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::link;
    use crate::host::{LocalAddress, RouteUse, UplinkChoice};

    fn host() -> HostState {
        let address = |text: &str, ifindex| LocalAddress {
            address: text.parse().unwrap(),
            ifindex,
            additional: false,
        };
        let networks = RouteUse { networks: true, addresses: false };
        let addresses = RouteUse { networks: false, addresses: true };
        let ip = |index, name| Link { layer: LinkLayer::Ip, ..link(index, name) };
        HostState {
            links: vec![
                link(1, "lo"),
                link(2, "eth0"),
                link(3, "eth1"),
                link(4, "docker0"),
                Link { master: Some(4), ..link(5, "veth1") },
                link(6, "slc0123456789a"),
                link(7, "veth-ptp"),
                ip(8, "wg0"),
                link(9, "eth2"),
                Link { layer: LinkLayer::Other, ..link(10, "ib0") },
            ],
            addresses: vec![
                address("172.18.0.2", 2),
                address("203.0.113.5", 3),
                LocalAddress { additional: true, ..address("203.0.113.1", 3) },
                address("172.17.0.1", 4),
            ],
            default_route: Some(3),
            route_uses: [
                (2, networks),
                (3, networks),
                (4, networks),
                (5, networks),
                (6, addresses),
                (7, addresses),
                (8, addresses),
                (10, networks),
            ]
            .into(),
            ephemeral_ports: (32_768, 60_999),
            netns_cookie: 1,
        }
    }

    fn names(host: &HostState, choice: &DeviceChoice, attached: &[u32]) -> Vec<String> {
        let internal = ["172.18.0.2".parse().unwrap()];
        let uplink = host.uplink(&UplinkChoice::Auto, &internal).unwrap();
        let attached = attached.iter().copied().collect();
        let selected = select(host, choice, &uplink, &internal, &attached);
        let managed = selected.into_iter().filter(NodeDevice::is_managed);
        let text = |d: NodeDevice| format!("{} {}", d.link.name, d.address.unwrap());
        managed.map(text).collect()
    }

    #[test]
    fn devices_with_routes_to_networks_get_programs_and_have_their_own_address() {
        assert_eq!(
            names(&host(), &DeviceChoice::Routes, &[]),
            ["eth0 172.18.0.2", "eth1 203.0.113.5", "docker0 172.17.0.1", "wg0 172.18.0.2"]
        );
    }

    #[test]
    fn named_devices_replace_those_of_routes_except_the_uplink() {
        let choice = |patterns: &[&str]| {
            DeviceChoice::Named(patterns.iter().map(|&p| p.to_owned()).collect())
        };
        let names = |patterns: &[&str]| names(&host(), &choice(patterns), &[]);
        assert_eq!(names(&["eth2"]), ["eth0 172.18.0.2", "eth2 172.18.0.2"]);
        assert_eq!(names(&["nothing"]), ["eth0 172.18.0.2"]);
        assert_eq!(names(&["*1"]), ["eth0 172.18.0.2", "eth1 203.0.113.5"]);
        // Never loopback, pods, ports, or devices with other headers.
        assert_eq!(names(&["*"]).len(), 6);
    }

    #[test]
    fn device_with_routes_that_gets_no_programs_is_told_from_one_without_routes() {
        let host = host();
        let uplink = host.uplink(&UplinkChoice::Named("eth0".to_owned()), &[]).unwrap();
        let selected = select(&host, &DeviceChoice::Routes, &uplink, &[], &BTreeSet::new());
        let role = |name: &str| selected.iter().find(|d| d.link.name == name).map(|d| d.role);
        assert_eq!(role("veth-ptp"), Some(Role::Unmanaged));
        assert_eq!(role("ib0"), Some(Role::Unmanaged));
        assert_eq!(role("eth2"), Some(Role::Unused));
        assert_eq!(role("veth1"), Some(Role::Unmanaged), "a port");
        assert_eq!(role("lo"), Some(Role::Unused));
        assert_eq!(role("slc0123456789a"), None);
        let named = DeviceChoice::Named(vec!["eth0".to_owned()]);
        let selected = select(&host, &named, &uplink, &[], &BTreeSet::new());
        let unmanaged = selected.iter().filter(|d| d.role == Role::Unmanaged);
        assert_eq!(unmanaged.count(), 6, "{selected:?}");
    }

    #[test]
    fn uplink_has_programs_also_as_a_port_of_another_device() {
        let mut host = host();
        host.links[1].master = Some(9);
        assert!(names(&host, &DeviceChoice::Routes, &[]).contains(&"eth0 172.18.0.2".to_owned()));
    }

    #[test]
    fn device_that_is_down_keeps_its_programs() {
        let mut host = host();
        host.route_uses.remove(&3);
        host.links[2].up = false;
        assert!(names(&host, &DeviceChoice::Routes, &[3]).contains(&"eth1 203.0.113.5".to_owned()));
        assert_eq!(names(&host, &DeviceChoice::Routes, &[]).len(), 3);
        host.links[2].up = true;
        assert_eq!(names(&host, &DeviceChoice::Routes, &[3]).len(), 3);
    }

    #[test]
    fn pattern_matches_the_whole_name() {
        for (pattern, name, want) in [
            ("eth0", "eth0", true),
            ("eth", "eth0", false),
            ("eth*", "eth0", true),
            ("e*h*0", "eth0", true),
            ("*", "", true),
            ("e*1", "eth0", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
