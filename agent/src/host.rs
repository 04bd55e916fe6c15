//! Which device leads to the other nodes. Pure.

use std::net::IpAddr;

use super::{Facts, Link};

/// How the uplink is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UplinkChoice {
    /// The device that has the node's InternalIP, else the one of the default route.
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

/// Why there is no uplink.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UplinkError {
    /// The device named by flag is not there.
    #[error("--uplink: there is no device {0}")]
    NoSuchDevice(String),
    /// Nothing to go by.
    #[error(
        "no device has an InternalIP of this node and there is no default route: give --uplink"
    )]
    Unknown,
}

impl Facts {
    /// The uplink of a node with these InternalIPs.
    ///
    /// # Errors
    /// If the device named is not there, or nothing tells which it is.
    pub fn uplink(
        &self,
        choice: &UplinkChoice,
        internal_ips: &[IpAddr],
    ) -> Result<Uplink, UplinkError> {
        let link = match choice {
            UplinkChoice::Named(name) => self
                .links
                .iter()
                .find(|l| &l.name == name)
                .ok_or_else(|| UplinkError::NoSuchDevice(name.clone()))?,
            UplinkChoice::Auto => {
                let by_address = internal_ips.iter().find_map(|ip| {
                    self.addresses.iter().find(|a| a.address == *ip).map(|a| a.ifindex)
                });
                by_address
                    .or(self.default_route)
                    .and_then(|index| self.links.iter().find(|l| l.index == index))
                    .ok_or(UplinkError::Unknown)?
            }
        };
        let pick = |v4: bool| {
            let on_it = |a: &IpAddr| {
                a.is_ipv4() == v4
                    && self.addresses.iter().any(|l| l.ifindex == link.index && l.address == *a)
            };
            let first_global = || {
                self.addresses
                    .iter()
                    .filter(|l| l.ifindex == link.index)
                    .map(|l| l.address)
                    .find(|a| a.is_ipv4() == v4 && !is_link_local(a))
            };
            internal_ips.iter().copied().find(on_it).or_else(first_global)
        };
        Ok(Uplink { link: link.clone(), v4: pick(true), v6: pick(false) })
    }
}

fn is_link_local(a: &IpAddr) -> bool {
    match a {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::LocalAddress;
    use super::*;

    fn facts() -> Facts {
        let link = |index, name: &str| Link {
            index,
            name: name.to_owned(),
            mtu: 1500,
            up: true,
            loopback: false,
        };
        let address = |a: &str, ifindex| LocalAddress { address: a.parse().unwrap(), ifindex };
        Facts {
            links: vec![link(2, "eth0"), link(3, "eth1")],
            addresses: vec![
                address("172.18.0.2", 2),
                address("172.18.0.9", 2),
                address("fe80::1", 2),
                address("fc00::2", 2),
                address("192.168.7.7", 3),
            ],
            default_route: Some(3),
        }
    }

    #[test]
    fn internal_ip_wins_over_the_default_route() {
        let up = facts().uplink(&UplinkChoice::Auto, &["172.18.0.9".parse().unwrap()]).unwrap();
        assert_eq!(up.link.name, "eth0");
        assert_eq!(up.v4.unwrap().to_string(), "172.18.0.9");
        assert_eq!(up.v6.unwrap().to_string(), "fc00::2");
    }

    #[test]
    fn default_route_where_the_internal_ip_is_on_no_device() {
        let up = facts().uplink(&UplinkChoice::Auto, &["10.9.9.9".parse().unwrap()]).unwrap();
        assert_eq!((up.link.name.as_str(), up.v6), ("eth1", None));
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let e = facts().uplink(&UplinkChoice::Named("bond0".into()), &[]).unwrap_err();
        assert_eq!(e.to_string(), "--uplink: there is no device bond0");
    }
}
