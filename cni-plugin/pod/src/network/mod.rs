//! One pod's network, with a file for each verb.
//!
//! ```text
//! pod:   eth0 10.244.1.7/32      default via 169.254.1.1   169.254.1.1 -> host MAC, permanent
//! host:  slc0123456789a          10.244.1.7/32 proto 83    10.244.1.7 -> pod MAC, permanent
//!        tc ingress: from_pod, tc egress: to_pod           LOCAL_PODS row of 10.244.1.7
//! ```
//! The programs are attached and the `LOCAL_PODS` row is written before either end is up. The host's
//! route is created last: a network with that route is complete.

mod create;
mod remove;
mod repair;
mod verify;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use sluice_bpf::BpfError;
use sluice_bpf::attach::AttachError;
use sluice_bpf::netlink::{Netlink, NetlinkError};

use crate::device::{self, Link, Route};
use crate::lease::{Lease, StoreError};
use crate::{GATEWAY, ROUTE_PROTOCOL};

pub use create::{CreateError, VethOptions, VethPair};
pub use remove::{RowKeys, remove_local_pod, remove_rows_of_released, remove_veth};
use repair::Sysctl;
pub use repair::{HostPath, PathPart, host_path, host_paths, restore};

/// One pod's network: the lease describes it, the socket reaches the host's end.
#[derive(Debug)]
pub struct PodNetwork<'a> {
    /// A socket in the host's network namespace.
    pub host: &'a mut Netlink,
    /// The pod's lease.
    pub lease: &'a Lease,
}

/// A pod's network that could not be created, repaired or removed, or that differs from what was
/// created.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A netlink request failed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A program could not be attached or listed.
    #[error("attach programs to network device {device}")]
    Attach {
        /// The host's end.
        device: String,
        /// The cause.
        #[source]
        source: AttachError,
    },
    /// A pin could not be opened, or the map of this node's pods could not be read or written.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// A sysctl could not be written.
    #[error("write {path}")]
    Sysctl {
        /// Path of the sysctl.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The leases cannot be locked or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lease was released meanwhile: another pod can have its address.
    #[error("the address was released")]
    Released,
    /// A network device does not exist.
    #[error("network device {0} does not exist")]
    DeviceMissing(String),
    /// Whether a network device is operational cannot be read.
    #[error("network device {device}: its state cannot be read")]
    StateUnknown {
        /// The host's end.
        device: String,
        /// The cause.
        #[source]
        source: NetlinkError,
    },
    /// Something differs from what `create` made.
    #[error("{0}")]
    Differs(String),
}

/// Whether creation ended: the host's route to the pod at `address` leads to interface `ifindex`.
///
/// # Errors
/// The host's routes cannot be listed.
pub fn is_complete(
    host: &mut Netlink,
    address: Ipv4Addr,
    ifindex: u32,
) -> Result<bool, NetlinkError> {
    let expected = host_route(address, ifindex);
    Ok(device::routes(host)?.iter().any(|route| same_route(route, &expected)))
}

/// The routes inside a pod, in the order in which they can be created.
pub fn pod_routes(ifindex: u32) -> [Route; 2] {
    let gateway = host_route(GATEWAY, ifindex);
    [gateway, Route { dst: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Some(GATEWAY), ..gateway }]
}

fn host_route(dst: Ipv4Addr, oif: u32) -> Route {
    Route { dst, prefix: 32, gateway: None, oif, protocol: ROUTE_PROTOCOL, priority: 0 }
}

/// Whether two routes have the same destination and next hop. Other software may change protocol
/// and metric.
fn same_route(a: &Route, b: &Route) -> bool {
    (a.dst, a.prefix, a.gateway, a.oif) == (b.dst, b.prefix, b.gateway, b.oif)
}

fn find(netlink: &mut Netlink, name: &str) -> Result<Link, NetworkError> {
    device::link_by_name(netlink, name)?.ok_or_else(|| NetworkError::DeviceMissing(name.to_owned()))
}

/// Path of a device's setting; `None` for IPv6 settings of a device without IPv6: the kernel has
/// none, or the MTU is below 1280.
fn sysctl_path(sysctls: &Path, device: &str, (family, key, _): Sysctl) -> Option<PathBuf> {
    let settings = sysctls.join("net").join(family).join("conf").join(device);
    (family == "ipv4" || settings.is_dir()).then(|| settings.join(key))
}

/// Sets a setting of a device.
fn write_sysctl(sysctls: &Path, device: &str, sysctl: Sysctl) -> Result<(), NetworkError> {
    let Some(path) = sysctl_path(sysctls, device, sysctl) else { return Ok(()) };
    let Err(source) = fs::write(&path, sysctl.2) else { return Ok(()) };
    // A read-only /proc/sys suffices if the value is right already.
    match fs::read_to_string(&path) {
        Ok(current) if current.trim() == sysctl.2 => Ok(()),
        _ => Err(NetworkError::Sysctl { path: path.display().to_string(), source }),
    }
}
