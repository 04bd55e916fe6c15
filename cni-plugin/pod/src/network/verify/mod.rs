//! Verification: what exists is read first and compared then, so the comparison has unit tests.

use std::net::Ipv4Addr;
use std::path::Path;

use sluice_abi::LocalPod;
use sluice_bpf::attach::device_programs;
use sluice_bpf::netlink::Netlink;
use sluice_bpf::prog_info;

use super::repair::{Sysctl, different_sysctl};
use super::{NetworkError, PodNetwork, find, host_route, pod_routes, same_route};
use crate::dataplane::Dataplane;
use crate::device::{self, Link, Mac, Route};
use crate::lease::Lease;
use crate::{GATEWAY, HostPort, PROC_SYS, host_port, identity, inventory};

impl PodNetwork<'_> {
    /// Compares the network with what [`PodNetwork::create`] makes; `pod` is a socket inside the
    /// pod. Changes nothing.
    ///
    /// # Errors
    /// [`NetworkError::DeviceMissing`] or [`NetworkError::Differs`] for the first difference; other
    /// variants if something cannot be read.
    pub fn verify(&mut self, pod: &mut Netlink, dataplane: &Dataplane) -> Result<(), NetworkError> {
        let observed = self.observe(pod, dataplane)?;
        match observed.difference(self.lease) {
            Some(difference) => Err(NetworkError::Differs(difference)),
            None => Ok(()),
        }
    }

    fn observe(
        &mut self,
        pod: &mut Netlink,
        dataplane: &Dataplane,
    ) -> Result<Observed, NetworkError> {
        let lease = self.lease;
        let host_end = find(self.host, &lease.host_ifname)?;
        let pod_end = find(pod, &lease.key.ifname)?;
        let mut programs = Vec::new();
        for (direction, prog) in dataplane.hooks() {
            let pinned = prog_info(prog)?.name;
            let attached = device_programs(self.host, host_end.index, direction)
                .map_err(|source| NetworkError::Attach { device: host_end.name.clone(), source })?;
            let is_attached = attached.iter().any(|program| program.name == pinned);
            programs.push((pinned, is_attached));
        }
        Ok(Observed {
            pod_addresses: device::addresses(pod, pod_end.index)?,
            pod_routes: device::routes(pod)?,
            gateway_mac: device::permanent_neighbour(pod, pod_end.index, GATEWAY)?,
            host_routes: device::routes(self.host)?,
            pod_mac: device::permanent_neighbour(self.host, host_end.index, lease.address)?,
            programs,
            sysctl: different_sysctl(Path::new(PROC_SYS), &host_end.name),
            row: dataplane.pods.get(lease.address.into())?,
            host_port: host_port::first_different(
                &dataplane.pins,
                lease.address,
                lease.host_ports.as_deref().unwrap_or_default(),
            )?,
            host_end,
            pod_end,
        })
    }
}

/// What exists of a pod's network.
#[derive(Clone, Debug)]
struct Observed {
    host_end: Link,
    pod_end: Link,
    pod_addresses: Vec<(Ipv4Addr, u8)>,
    pod_routes: Vec<Route>,
    /// The pod's neighbour entry for the gateway.
    gateway_mac: Option<Mac>,
    host_routes: Vec<Route>,
    /// The host's neighbour entry for the pod.
    pod_mac: Option<Mac>,
    /// Pinned programs, and whether they are attached.
    programs: Vec<(String, bool)>,
    row: Option<LocalPod>,
    /// The first hostPort that does not lead to the pod.
    host_port: Option<HostPort>,
    /// The first setting of the host's end that differs.
    sysctl: Option<Sysctl>,
}

impl Observed {
    /// The first difference from what a lease prescribes.
    fn difference(&self, lease: &Lease) -> Option<String> {
        let (host_mac, pod_mac) = identity::macs(&lease.key);
        let Observed { host_end, pod_end, .. } = self;
        let address = lease.address;
        for (link, mac) in [(host_end, host_mac), (pod_end, pod_mac)] {
            if !link.up {
                return Some(format!("network device {} is down", link.name));
            }
            if link.mac != Some(mac) {
                return Some(format!("network device {} has a different MAC address", link.name));
            }
        }
        if !self.pod_addresses.contains(&(address, 32)) {
            return Some(format!("network device {} lacks address {address}/32", pod_end.name));
        }
        for route in pod_routes(pod_end.index) {
            if !self.pod_routes.iter().any(|r| same_route(r, &route)) {
                return Some(format!("the pod lacks the route to {}/{}", route.dst, route.prefix));
            }
        }
        if self.gateway_mac != Some(host_mac) {
            return Some(format!("the pod lacks the permanent neighbour entry for {GATEWAY}"));
        }
        if let Some((family, key, value)) = self.sysctl {
            return Some(format!("{family} {key} of {} is not {value}", host_end.name));
        }
        let host_route = host_route(address, host_end.index);
        if !self.host_routes.iter().any(|r| same_route(r, &host_route)) {
            return Some(format!("the node lacks the route to {address}"));
        }
        if self.pod_mac != Some(pod_mac) {
            return Some(format!("the node lacks the permanent neighbour entry for {address}"));
        }
        if let Some((program, _)) = self.programs.iter().find(|(_, attached)| !attached) {
            return Some(format!("program {program} is not attached to {}", host_end.name));
        }
        if let Some(port) = &self.host_port {
            let HostPort { host_ip, host_port, .. } = port;
            return Some(format!("HOST_PORTS has no row from {host_ip}:{host_port} to {address}"));
        }
        match self.row {
            Some(row) if row == inventory::local_pod(lease, host_end) => None,
            Some(_) => Some(format!("the LOCAL_PODS row of {address} is wrong")),
            None => Some(format!("LOCAL_PODS and PODS have no row for {address}")),
        }
    }
}

#[cfg(test)]
mod tests;
