//! The node's own network: devices, addresses, the default route, and the
//! choice of the uplink. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sluice_pod::device::Link;

/// An address of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// Index of the device that has it.
    pub ifindex: u32,
    /// Whether the device has another address of the same network before it, or the address is one
    /// without a network.
    pub additional: bool,
}

/// How routes use a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteUse {
    /// A route leads to a network, or to a gateway.
    pub networks: bool,
    /// A route leads to a single address without a gateway.
    pub addresses: bool,
}

/// Uses by the index of the device.
pub type RouteUses = BTreeMap<u32, RouteUse>;

/// Devices and addresses of the node at one point in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostState {
    /// Every device.
    pub links: Vec<Link>,
    /// Every address outside the loopback ranges, sorted.
    pub addresses: Vec<LocalAddress>,
    /// Device of the IPv4 default route with the lowest metric, else of the IPv6 one.
    pub default_route: Option<u32>,
    /// How the IPv4 routes use the devices.
    pub route_uses: RouteUses,
    /// First and last of the ports that the node's sockets get (net.ipv4.ip_local_port_range).
    pub ephemeral_ports: (u16, u16),
    /// Cookie of the node's network namespace, or 0 if the kernel has none.
    pub netns_cookie: u64,
}

/// How the uplink is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UplinkChoice {
    /// The device that has the node's InternalIP, else the device of the default route.
    Auto,
    /// The device of this name.
    Named(String),
}

/// The device that leads to the other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The device.
    pub link: Link,
    /// The node's IPv4 address on it; source of masqueraded packets.
    pub v4: Option<IpAddr>,
    /// The node's IPv6 address on it.
    pub v6: Option<IpAddr>,
}

/// Why no device can be the uplink.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UplinkError {
    /// The device named by flag does not exist.
    #[error("--uplink: device {0} does not exist")]
    NoSuchDevice(String),
    /// No device has an InternalIP, and there is no default route.
    #[error("no device has an InternalIP of this node and there is no default route: set --uplink")]
    Unknown,
}

impl HostState {
    /// The device with this index.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The uplink of a node with these InternalIPs.
    ///
    /// # Errors
    /// The named device does not exist; or no InternalIP and no default route leads to a device.
    pub fn uplink(
        &self,
        choice: &UplinkChoice,
        internal_ips: &[IpAddr],
    ) -> Result<Uplink, UplinkError> {
        let link = match choice {
            UplinkChoice::Named(name) => self
                .links
                .iter()
                .find(|link| &link.name == name)
                .ok_or_else(|| UplinkError::NoSuchDevice(name.clone()))?,
            UplinkChoice::Auto => {
                // An InternalIP of a loopback device is announced by routing.
                let by_address = internal_ips.iter().find_map(|ip| {
                    let found = self.addresses.iter().find(|a| a.address == *ip)?;
                    let loopback = self.link(found.ifindex).is_some_and(|link| link.loopback);
                    (!loopback).then_some(found.ifindex)
                });
                by_address
                    .or(self.default_route)
                    .and_then(|index| self.link(index))
                    .ok_or(UplinkError::Unknown)?
            }
        };
        let address = |v4: bool| self.address_on(link.index, v4, internal_ips);
        let elsewhere = |v4: bool| {
            let local = |ip: &&IpAddr| self.addresses.iter().any(|a| a.address == **ip);
            internal_ips.iter().filter(local).copied().find(|ip| ip.is_ipv4() == v4)
        };
        let address = |v4: bool| address(v4).or_else(|| elsewhere(v4));
        Ok(Uplink { link: link.clone(), v4: address(true), v6: address(false) })
    }

    /// The node's address of one family on a device: an InternalIP if it is there, else the first
    /// address that is not link-local, preferably not an additional one.
    pub fn address_on(&self, ifindex: u32, v4: bool, internal_ips: &[IpAddr]) -> Option<IpAddr> {
        let on_device =
            || self.addresses.iter().filter(|a| a.ifindex == ifindex && a.address.is_ipv4() == v4);
        let internal =
            internal_ips.iter().copied().find(|ip| on_device().any(|a| a.address == *ip));
        let global = || on_device().filter(|a| !is_link_local(&a.address));
        let first = || global().min_by_key(|a| a.additional).map(|a| a.address);
        internal.or_else(first)
    }
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::link;

    fn host() -> HostState {
        let address = |a: &str, ifindex| LocalAddress {
            address: a.parse().unwrap(),
            ifindex,
            additional: false,
        };
        HostState {
            links: vec![link(2, "eth0"), link(3, "eth1")],
            addresses: vec![
                address("169.254.7.7", 2),
                address("172.18.0.2", 2),
                address("172.18.0.9", 2),
                address("192.168.7.7", 3),
                address("fc00::2", 2),
                address("fe80::1", 2),
            ],
            default_route: Some(3),
            route_uses: RouteUses::new(),
            ephemeral_ports: (32_768, 60_999),
            netns_cookie: 1,
        }
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn device_of_the_internal_ip_precedes_the_default_route() {
        let uplink = host().uplink(&UplinkChoice::Auto, &ips(&["172.18.0.9"])).unwrap();
        assert_eq!(uplink.link.name, "eth0");
        assert_eq!(uplink.v4.unwrap().to_string(), "172.18.0.9");
        assert_eq!(uplink.v6.unwrap().to_string(), "fc00::2");
    }

    #[test]
    fn default_route_decides_if_no_device_has_the_internal_ip() {
        let uplink = host().uplink(&UplinkChoice::Auto, &ips(&["10.9.9.9"])).unwrap();
        assert_eq!((uplink.link.name.as_str(), uplink.v6), ("eth1", None));
        assert_eq!(uplink.v4.unwrap().to_string(), "192.168.7.7");
    }

    #[test]
    fn first_global_address_is_used_if_the_internal_ip_is_elsewhere() {
        let choice = UplinkChoice::Named("eth0".to_owned());
        let uplink = host().uplink(&choice, &ips(&["192.168.7.7"])).unwrap();
        assert_eq!(uplink.v4.unwrap().to_string(), "172.18.0.2");
    }

    #[test]
    fn error_names_the_missing_device_or_the_flag() {
        let host = HostState { default_route: None, ..host() };
        let e = host.uplink(&UplinkChoice::Named("bond0".into()), &[]).unwrap_err();
        assert_eq!(e.to_string(), "--uplink: device bond0 does not exist");
        let e = host.uplink(&UplinkChoice::Auto, &[]).unwrap_err();
        assert_eq!(e, UplinkError::Unknown);
    }
}
