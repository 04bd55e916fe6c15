//! The node's half of a pod's path: device, sysctls, neighbour entry and route. Other programs change
//! it; the agent compares it with what `create` makes and restores what is missing.
//!
//! Programs and rows are not part of it: see [`crate::Dataplane`].

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use sluice_bpf::netlink::{Netlink, NetlinkError};

use super::{NetworkError, host_route, same_route, sysctl_path, write_sysctl};
use crate::device::{self, Link, Mac};
use crate::identity;
use crate::lease::Lease;

/// A setting of the host's end: family, name, value.
pub(super) type Sysctl = (&'static str, &'static str, &'static str);

/// Without IPv6, which no netlink attribute disables.
pub(super) const NO_IPV6: Sysctl = ("ipv6", "disable_ipv6", "1");

/// The others of [`SYSCTLS`] as netlink knows them: IPV4_DEVCONF_RP_FILTER, IPV4_DEVCONF_FORWARDING.
pub(super) const IPV4_SETTINGS: [(u16, u32); 2] = [(8, 0), (1, 1)];

/// Settings of the host's end. Without `disable_ipv6`, a router advertisement from the pod gives the
/// node an address range and a default route (the class of CVE-2020-10749); it is set before the
/// device is up.
pub(super) const SYSCTLS: [Sysctl; 3] = [
    NO_IPV6,
    // systemd-sysctl applies the distribution's rp_filter to each new device.
    ("ipv4", "rp_filter", "0"),
    ("ipv4", "forwarding", "1"),
];

/// A part of the node's half, in the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathPart {
    /// The host's end is up.
    Device,
    /// Forwarding is enabled on it, and neither IPv6 nor a reverse path filter.
    Sysctls,
    /// The permanent neighbour entry of the pod's address.
    Neighbour,
    /// The route to the pod's address. A network with it is complete.
    Route,
}

impl PathPart {
    /// Name for metrics and messages.
    pub fn label(self) -> &'static str {
        match self {
            PathPart::Device => "device",
            PathPart::Sysctls => "sysctls",
            PathPart::Neighbour => "neighbour",
            PathPart::Route => "route",
        }
    }
}

/// What the node has of a pod's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPath {
    /// The host's end.
    pub link: Link,
    /// Missing parts.
    pub missing: BTreeSet<PathPart>,
}

impl HostPath {
    /// Whether the pod's ADD had reached its end.
    pub fn is_complete(&self) -> bool {
        !self.missing.contains(&PathPart::Route)
    }

    fn new(link: Link, neighbour: bool, route: bool, sysctls: &Path) -> HostPath {
        let present = [
            (PathPart::Device, link.up),
            (PathPart::Sysctls, sysctls_set(sysctls, &link.name)),
            (PathPart::Neighbour, neighbour),
            (PathPart::Route, route),
        ];
        let missing = present.into_iter().filter(|(_, present)| !present).map(|(part, _)| part);
        HostPath { missing: missing.collect(), link }
    }
}

/// Reads the paths of many pods, with one dump of each kind; `None` for a pod without a device.
/// `sysctls` is the folder `/proc/sys`, or where it is writable.
///
/// # Errors
/// A dump fails, or is interrupted each time.
pub fn host_paths(
    netlink: &mut Netlink,
    leases: &[&Lease],
    sysctls: &Path,
) -> Result<Vec<Option<HostPath>>, NetlinkError> {
    let links = crate::inventory::HostLinks::read(netlink)?;
    let neighbours: BTreeSet<(u32, Ipv4Addr, Mac)> =
        device::permanent_neighbours(netlink)?.into_iter().collect();
    let routes: BTreeSet<(Ipv4Addr, u32)> = device::routes(netlink)?
        .into_iter()
        .filter(|route| route.prefix == 32 && route.gateway.is_none())
        .map(|route| (route.dst, route.oif))
        .collect();
    let path = |lease: &&Lease| {
        let link = links.of(lease)?.clone();
        let (_, pod_mac) = identity::macs(&lease.key);
        let neighbour = neighbours.contains(&(link.index, lease.address, pod_mac));
        let route = routes.contains(&(lease.address, link.index));
        Some(HostPath::new(link, neighbour, route, sysctls))
    };
    Ok(leases.iter().map(path).collect())
}

/// Reads the path of one pod, with one request for each part; `None` if it has no device.
///
/// # Errors
/// A request fails.
pub fn host_path(
    netlink: &mut Netlink,
    lease: &Lease,
    sysctls: &Path,
) -> Result<Option<HostPath>, NetlinkError> {
    let Some(link) = device::link_by_name(netlink, &lease.host_ifname)? else { return Ok(None) };
    let (_, pod_mac) = identity::macs(&lease.key);
    let neighbour = device::neighbour(netlink, link.index, lease.address)? == Some(pod_mac);
    let expected = host_route(lease.address, link.index);
    let route = match device::route_to(netlink, lease.address)? {
        Some(route) if same_route(&route, &expected) => true,
        // A rule can select a route of another table.
        _ => device::routes(netlink)?.iter().any(|route| same_route(route, &expected)),
    };
    Ok(Some(HostPath::new(link, neighbour, route, sysctls)))
}

/// Restores one part of a pod's path. `link` is the host's end.
///
/// # Errors
/// The kernel rejects the request, or the sysctls cannot be written.
pub fn restore(
    netlink: &mut Netlink,
    lease: &Lease,
    link: &Link,
    part: PathPart,
    sysctls: &Path,
) -> Result<(), NetworkError> {
    let (_, pod_mac) = identity::macs(&lease.key);
    match part {
        PathPart::Device => device::set_up(netlink, link.index, Vec::new())?,
        PathPart::Sysctls => {
            for sysctl in SYSCTLS {
                write_sysctl(sysctls, &link.name, sysctl)?;
            }
        }
        PathPart::Neighbour => {
            device::add_neighbour(netlink, link.index, lease.address, pod_mac)?;
        }
        PathPart::Route => {
            device::add_route(netlink, &host_route(lease.address, link.index))?;
        }
    }
    Ok(())
}

/// The first setting of a device that differs from what `create` sets.
pub(super) fn different_sysctl(sysctls: &Path, device: &str) -> Option<Sysctl> {
    SYSCTLS.into_iter().find(|sysctl| {
        let Some(path) = sysctl_path(sysctls, device, *sysctl) else { return false };
        !fs::read_to_string(path).is_ok_and(|current| current.trim() == sysctl.2)
    })
}

fn sysctls_set(sysctls: &Path, device: &str) -> bool {
    different_sysctl(sysctls, device).is_none()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn missing_parts_are_those_that_differ_from_a_created_path() {
        let sysctls = tempfile::tempdir().unwrap();
        let dir = sysctls.path().join("net/ipv4/conf/slc1");
        fs::create_dir_all(&dir).unwrap();
        let ipv6 = sysctls.path().join("net/ipv6/conf/slc1");
        fs::create_dir_all(&ipv6).unwrap();
        for (family, key, value) in SYSCTLS {
            let path = sysctls.path().join("net").join(family).join("conf/slc1").join(key);
            fs::write(path, format!("{value}\n")).unwrap();
        }
        let link = |up| Link {
            index: 7,
            name: "slc1".into(),
            mac: None,
            alias: None,
            mtu: 1500,
            up,
            layer: crate::device::LinkLayer::Ethernet,
            loopback: false,
            master: None,
            veth: false,
            vlan_of: None,
        };
        let path = |up, neighbour, route| HostPath::new(link(up), neighbour, route, sysctls.path());
        assert!(path(true, true, true).missing.is_empty());
        assert_eq!(
            path(false, false, false).missing,
            BTreeSet::from([PathPart::Device, PathPart::Neighbour, PathPart::Route])
        );
        assert!(path(false, false, true).is_complete() && !path(true, true, false).is_complete());
        fs::write(ipv6.join("disable_ipv6"), "0\n").unwrap();
        assert_eq!(path(true, true, true).missing, BTreeSet::from([PathPart::Sysctls]));
        // A kernel without IPv6 has no such setting.
        fs::remove_dir_all(sysctls.path().join("net/ipv6")).unwrap();
        assert!(path(true, true, true).missing.is_empty());
        fs::write(dir.join("rp_filter"), "1\n").unwrap();
        assert_eq!(path(true, true, true).missing, BTreeSet::from([PathPart::Sysctls]));
        fs::remove_dir_all(dir).unwrap();
        assert_eq!(path(true, true, true).missing, BTreeSet::from([PathPart::Sysctls]));
    }
}
