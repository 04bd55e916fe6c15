//! One pod's wire: a veth pair, what stands on its two ends, and how all of it goes again.
//!
//! ```text
//! pod:   eth0 10.244.1.7/32      default via 169.254.1.1   169.254.1.1 -> host MAC, permanent
//! host:  slc0123456789a          10.244.1.7/32 proto 83    10.244.1.7 -> pod MAC, permanent
//!        tc ingress: from_pod, tc egress: to_pod
//! ```
//! The programs stand on the host's end, and the pod has its row in `LOCAL_PODS`, before any end is
//! up. The host's route comes last: where it is, the wire is complete.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use sluice_abi::Addr;

use crate::device::{self, Link, ROUTE_PROTOCOL, Route, Veth};
use crate::identity::{self, GATEWAY};
use crate::inventory;
use crate::lease::Lease;
use crate::netns::NetNs;
use crate::pins::Dataplane;
use sluice_bpf::attach::{AttachError, Direction, Mechanism, attach_device_by, device_programs};
use sluice_bpf::netlink::{Netlink, NetlinkError};
use sluice_bpf::{self as bpf, BpfError};

/// What wiring needs of the world.
#[derive(Debug)]
pub struct Wire<'a> {
    /// A socket in the host's namespace.
    pub host: &'a mut Netlink,
    /// A socket in the pod's.
    pub pod: &'a mut Netlink,
    /// The attachment.
    pub lease: &'a Lease,
}

/// Why a wire could not be made, or is not as it was made.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Netlink refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A program could not be attached.
    #[error("attach the dataplane to {device}")]
    Attach {
        /// The host's end.
        device: String,
        /// The cause.
        #[source]
        source: AttachError,
    },
    /// The map of this node's pods could not be written or read.
    #[error(transparent)]
    Map(#[from] BpfError),
    /// A sysctl could not be written.
    #[error("write {path}")]
    Sysctl {
        /// Which.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A device that was made is not there.
    #[error("network device {0} is gone")]
    Gone(String),
    /// CHECK: something differs from what ADD made.
    #[error("{0}")]
    Differs(String),
}

fn there(netlink: &mut Netlink, name: &str) -> Result<Link, WireError> {
    device::link_by_name(netlink, name)?.ok_or_else(|| WireError::Gone(name.to_owned()))
}

fn sysctl(device: &str, key: &str, value: &str) -> Result<(), WireError> {
    let path = format!("/proc/sys/net/ipv4/conf/{device}/{key}");
    // A read-only /proc/sys that says the right thing already is good enough.
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| WireError::Sysctl { path, source })
}

impl Wire<'_> {
    /// Makes the wire; returns the host's and the pod's end.
    ///
    /// `mechanism` holds the programs.
    ///
    /// # Errors
    /// Where it failed. What was made until then is still there: the caller calls [`cut`].
    pub fn connect(
        &mut self,
        netns: &NetNs,
        mtu: u32,
        mechanism: Mechanism,
        dataplane: &Dataplane,
    ) -> Result<(Link, Link), WireError> {
        let Wire { lease, .. } = *self;
        let (host_mac, pod_mac) = identity::macs(&lease.key);
        let (host_name, pod_name) = (lease.host_ifname.as_str(), lease.key.ifname.as_str());
        let veth = Veth { host_name, host_mac, pod_name, pod_mac, pod_netns: netns.as_fd(), mtu };
        device::create_veth(self.host, &veth)?;
        let host_end = there(self.host, host_name)?;
        let pod_end = there(self.pod, pod_name)?;

        for (direction, prog) in
            [(Direction::Ingress, &dataplane.from_pod), (Direction::Egress, &dataplane.to_pod)]
        {
            attach_device_by(self.host, host_end.index, direction, prog, mechanism)
                .map_err(|source| WireError::Attach { device: host_name.to_owned(), source })?;
        }
        dataplane
            .local_pods
            .update(&lease.address.into(), &inventory::local_pod(lease, &host_end))?;
        // systemd-sysctl sets rp_filter on each new device as the distribution likes it.
        sysctl(host_name, "rp_filter", "0")?;
        sysctl(host_name, "forwarding", "1")?;

        let (namespace, name) = (lease.pod_namespace.as_deref(), lease.pod_name.as_deref());
        let alias = identity::alias(&lease.key, namespace, name);
        device::set_up(self.host, host_end.index, Some(&alias))?;
        device::add_neighbour(self.host, host_end.index, lease.address, pod_mac)?;

        device::add_address(self.pod, pod_end.index, lease.address)?;
        device::set_up(self.pod, pod_end.index, None)?;
        device::add_neighbour(self.pod, pod_end.index, GATEWAY, host_mac)?;
        for route in pod_routes(pod_end.index) {
            device::add_route(self.pod, &route)?;
        }
        device::add_route(self.host, &host_route(lease, host_end.index))?;
        Ok((host_end, pod_end))
    }

    /// Compares the wire with what [`Wire::connect`] makes.
    ///
    /// # Errors
    /// The first difference.
    pub fn verify(&mut self, dataplane: &Dataplane) -> Result<(), WireError> {
        let Wire { lease, .. } = *self;
        let differs = |what: String| Err(WireError::Differs(what));
        let (host_mac, pod_mac) = identity::macs(&lease.key);
        let host_end = there(self.host, &lease.host_ifname)?;
        let pod_end = there(self.pod, &lease.key.ifname)?;
        for (link, mac) in [(&host_end, host_mac), (&pod_end, pod_mac)] {
            if !link.up {
                return differs(format!("network device {} is down", link.name));
            }
            if link.mac != Some(mac) {
                return differs(format!("network device {} has another MAC address", link.name));
            }
        }
        if !device::addresses(self.pod, pod_end.index)?.contains(&(lease.address, 32)) {
            return differs(format!("{} has no address {}/32", pod_end.name, lease.address));
        }
        let routes = device::routes(self.pod)?;
        for route in pod_routes(pod_end.index) {
            if !routes.iter().any(|r| same_way(r, &route)) {
                return differs(format!("the pod has no route {}/{}", route.dst, route.prefix));
            }
        }
        if device::permanent_neighbour(self.pod, pod_end.index, GATEWAY)? != Some(host_mac) {
            return differs(format!("the pod has no permanent neighbour entry for {GATEWAY}"));
        }
        if !is_complete(self.host, lease, host_end.index)? {
            return differs(format!("the host has no route to {}", lease.address));
        }
        let neighbour = device::permanent_neighbour(self.host, host_end.index, lease.address)?;
        if neighbour != Some(pod_mac) {
            return differs(format!("the host has no neighbour entry for {}", lease.address));
        }
        for (direction, prog) in
            [(Direction::Ingress, &dataplane.from_pod), (Direction::Egress, &dataplane.to_pod)]
        {
            let pinned = bpf::prog_info(prog)?;
            let attached = device_programs(self.host, host_end.index, direction)
                .map_err(|source| WireError::Attach { device: host_end.name.clone(), source })?;
            if !attached.iter().any(|p| p.name == pinned.name) {
                return differs(format!(
                    "program {} is not attached to {}",
                    pinned.name, host_end.name
                ));
            }
        }
        match dataplane.local_pods.lookup(&lease.address.into())? {
            Some(row) if row.ifindex == host_end.index && row.pod_mac == pod_mac => Ok(()),
            Some(_) => differs(format!("the dataplane has {} elsewhere", lease.address)),
            None => differs(format!("the dataplane does not know {}", lease.address)),
        }
    }
}

fn same_way(a: &Route, b: &Route) -> bool {
    (a.dst, a.prefix, a.gateway, a.oif) == (b.dst, b.prefix, b.gateway, b.oif)
}

/// The routes inside a pod, in the order in which they can be made.
pub fn pod_routes(oif: u32) -> [Route; 2] {
    let link = Route {
        dst: GATEWAY,
        prefix: 32,
        gateway: None,
        oif,
        protocol: ROUTE_PROTOCOL,
        priority: 0,
    };
    let any = std::net::Ipv4Addr::UNSPECIFIED;
    [link, Route { dst: any, prefix: 0, gateway: Some(GATEWAY), ..link }]
}

fn host_route(lease: &Lease, oif: u32) -> Route {
    Route {
        dst: lease.address,
        prefix: 32,
        gateway: None,
        oif,
        protocol: ROUTE_PROTOCOL,
        priority: 0,
    }
}

/// Whether a wire was made to its end: the host's route is the last thing that ADD makes.
///
/// # Errors
/// The kernel's refusal.
pub fn is_complete(host: &mut Netlink, lease: &Lease, oif: u32) -> Result<bool, NetlinkError> {
    let wanted = host_route(lease, oif);
    Ok(device::routes(host)?.iter().any(|route| same_way(route, &wanted)))
}

/// Removes a lease's row from `LOCAL_PODS`; does nothing where no dataplane is loaded.
///
/// # Errors
/// The kernel's refusal to delete what is there.
pub fn forget_local_pod(pins: &Path, lease: &Lease) -> Result<(), BpfError> {
    let Ok(endpoints) = crate::pins::open_local_pods(pins) else { return Ok(()) };
    endpoints.delete(&Addr::from(lease.address)).map(|_| ())
}

/// Takes the wire away, whatever is there of it: with the host's end go its peer, routes,
/// neighbours and attachments.
///
/// # Errors
/// The kernel's refusal to delete what is there.
pub fn cut(host: &mut Netlink, host_ifname: &str) -> Result<(), NetlinkError> {
    device::delete_link(host, host_ifname).map(|_| ())
}
