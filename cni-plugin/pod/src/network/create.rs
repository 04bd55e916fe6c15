//! Creation.

use std::os::fd::AsFd;
use std::path::Path;

use netlink_packet_route::link::LinkAttribute;
use sluice_bpf::attach::{Mechanism, attach_new_device};
use sluice_bpf::netlink::Netlink;

use super::repair::{IPV4_SETTINGS, NO_IPV6};
use super::{NetworkError, PodNetwork, find, host_route, pod_routes, write_sysctl};
use crate::dataplane::Dataplane;
use crate::device::{self, Link, Veth};
use crate::lease::{BootInstant, Store};
use crate::netns::NetNs;
use crate::{GATEWAY, PROC_SYS, host_port, identity, inventory};

/// Properties of a veth pair that the lease does not determine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VethOptions {
    /// MTU of both ends, bytes.
    pub mtu: u32,
    /// How the programs are attached to the host's end.
    pub mechanism: Mechanism,
}

/// Both ends of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethPair {
    /// The host's end.
    pub host: Link,
    /// The pod's end.
    pub pod: Link,
}

/// A network that could not be created.
#[derive(Debug)]
pub struct CreateError {
    /// Whether the veth pair was created. A device of that name that existed before belongs to
    /// other software.
    pub has_device: bool,
    /// The cause.
    pub source: NetworkError,
}

impl CreateError {
    /// Whether a device of one of the two names exists.
    pub fn is_name_in_use(&self) -> bool {
        !self.has_device && matches!(&self.source, NetworkError::Netlink(e) if e.is_present())
    }
}

impl PodNetwork<'_> {
    /// Creates the network of the pod in `netns`, in which `pod` is a socket. The lease is one of
    /// `store`, whose lock the caller does not hold.
    ///
    /// # Errors
    /// A netlink request, an attachment, the `LOCAL_PODS` row or a sysctl fails; the lease of a pod with
    /// hostPorts was released. What exists by then stays: the caller removes it, the device only if it
    /// was created.
    pub fn create(
        &mut self,
        netns: &NetNs,
        pod: &mut Netlink,
        options: VethOptions,
        dataplane: &Dataplane,
        store: &Store,
    ) -> Result<VethPair, CreateError> {
        self.create_veth(netns, options.mtu)
            .map_err(|source| CreateError { has_device: false, source })?;
        self.configure(pod, options, dataplane, store)
            .map_err(|source| CreateError { has_device: true, source })
    }

    fn configure(
        &mut self,
        pod: &mut Netlink,
        options: VethOptions,
        dataplane: &Dataplane,
        store: &Store,
    ) -> Result<VethPair, NetworkError> {
        let pair = VethPair {
            host: find(self.host, &self.lease.host_ifname)?,
            pod: find(pod, &self.lease.key.ifname)?,
        };
        self.attach(&pair.host, options.mechanism, dataplane)?;
        dataplane.pods.put_netns(self.lease.netns_cookie, self.lease.address.into());
        self.configure_host_end(&pair.host)?;
        self.configure_pod_end(&pair.pod, pod)?;
        self.put_host_ports(&dataplane.pins, store)?;
        device::add_route(self.host, &host_route(self.lease.address, pair.host.index))?;
        Ok(pair)
    }

    fn create_veth(&mut self, netns: &NetNs, mtu: u32) -> Result<(), NetworkError> {
        let (host_mac, pod_mac) = identity::macs(&self.lease.key);
        let host_name = self.lease.host_ifname.as_str();
        let pod_name = self.lease.key.ifname.as_str();
        let veth = Veth { host_name, host_mac, pod_name, pod_mac, pod_netns: netns.as_fd(), mtu };
        Ok(device::create_veth(self.host, &veth)?)
    }

    /// Attaches the programs and writes the row, while both ends are down.
    fn attach(
        &mut self,
        host_end: &Link,
        mechanism: Mechanism,
        dataplane: &Dataplane,
    ) -> Result<(), NetworkError> {
        let hooks = dataplane.hooks().map(|(direction, prog)| (direction, prog.as_fd()));
        attach_new_device(self.host, host_end.index, &hooks, mechanism)
            .map_err(|source| NetworkError::Attach { device: host_end.name.clone(), source })?;
        let row = inventory::local_pod(self.lease, host_end);
        Ok(dataplane.pods.put(self.lease.address.into(), &row)?)
    }

    fn configure_host_end(&mut self, host_end: &Link) -> Result<(), NetworkError> {
        write_sysctl(Path::new(PROC_SYS), &host_end.name, NO_IPV6)?;
        let alias = LinkAttribute::IfAlias(identity::alias(self.lease));
        let (_, pod_mac) = identity::macs(&self.lease.key);
        let attributes = vec![alias, device::ipv4_settings(&IPV4_SETTINGS)];
        device::set_up(self.host, host_end.index, attributes)?;
        Ok(device::add_neighbour(self.host, host_end.index, self.lease.address, pod_mac)?)
    }

    fn configure_pod_end(&self, pod_end: &Link, pod: &mut Netlink) -> Result<(), NetworkError> {
        let (host_mac, _) = identity::macs(&self.lease.key);
        device::add_address(pod, pod_end.index, self.lease.address)?;
        device::set_up(pod, pod_end.index, Vec::new())?;
        device::add_neighbour(pod, pod_end.index, GATEWAY, host_mac)?;
        for route in pod_routes(pod_end.index) {
            device::add_route(pod, &route)?;
        }
        Ok(())
    }

    /// Writes the rows of the hostPorts under the lock: the DEL of another pod with one of the ports
    /// could delete the row that it found before. Pods without hostPorts do not wait for the lock.
    fn put_host_ports(&self, pins: &Path, store: &Store) -> Result<(), NetworkError> {
        let lease = self.lease;
        let ports = lease.host_ports.as_deref().unwrap_or_default();
        if ports.is_empty() {
            return Ok(());
        }
        let now = BootInstant::now().unwrap_or_else(|_| lease.since.clone());
        let _locked = store.lock(&format!("ADD of {}", lease.owner()), &now)?;
        if !store.holds(lease)? {
            return Err(NetworkError::Released);
        }
        Ok(host_port::put(pins, lease.address, ports)?)
    }
}
