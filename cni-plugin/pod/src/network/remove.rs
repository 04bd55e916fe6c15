//! Removal. What does not exist is not an error: a pod whose network is half created, or already
//! removed, must be deletable.

use std::net::Ipv4Addr;
use std::path::Path;

use sluice_abi::Addr;
use sluice_bpf::BpfError;
use sluice_bpf::netlink::{Netlink, NetlinkError};

use super::{NetworkError, PodNetwork};
use crate::dataplane::PodRows;
use crate::{HostPort, device, host_port};

impl PodNetwork<'_> {
    /// Removes the veth pair, then the rows below the pins in `pins`. The lease must
    /// still be held: a released address can belong to another pod.
    ///
    /// # Errors
    /// The device or the row exists and cannot be deleted. A failure of the first step does not
    /// prevent the second.
    pub fn remove(&mut self, pins: &Path) -> Result<(), NetworkError> {
        let veth = remove_veth(self.host, &self.lease.host_ifname);
        let ports = self.lease.host_ports.as_deref();
        let cookie = self.lease.netns_cookie;
        let row = remove_local_pod(pins, self.lease.address, ports, cookie);
        veth?;
        Ok(row?)
    }
}

/// Deletes the host's end of a veth pair, and with it the pod's end, its routes, neighbour entries
/// and attachments.
///
/// # Errors
/// The device exists and cannot be deleted.
pub fn remove_veth(host: &mut Netlink, host_ifname: &str) -> Result<(), NetlinkError> {
    device::delete_link(host, host_ifname).map(|_| ())
}

/// Deletes a pod's rows: its hostPorts (`None`: not known), that of its network namespace (`None`: not
/// known), then those in `LOCAL_PODS` and `PODS`; does nothing if no dataplane is loaded.
///
/// # Errors
/// The row exists and cannot be deleted.
pub fn remove_local_pod(
    pins: &Path,
    address: Ipv4Addr,
    host_ports: Option<&[HostPort]>,
    netns_cookie: Option<u64>,
) -> Result<(), BpfError> {
    host_port::remove(pins, address, host_ports)?;
    let Ok(rows) = PodRows::open(pins) else { return Ok(()) };
    rows.remove_netns(netns_cookie, Addr::from(address));
    rows.remove(Addr::from(address))
}
