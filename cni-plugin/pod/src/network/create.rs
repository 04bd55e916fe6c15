//! Creation.

use std::os::fd::AsFd;
use std::path::Path;

use netlink_packet_route::link::LinkAttribute;
use sluice_bpf::attach::{Mechanism, attach_new_device};
use sluice_bpf::netlink::{Netlink, NetlinkError};

use super::repair::{IPV4_SETTINGS, NO_IPV6};
use super::{NetworkError, PodNetwork, find, host_route, pod_routes, write_sysctl};
use crate::dataplane::Dataplane;
use crate::device::{self, Link, Veth};
use crate::lease::{Lease, Store};
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
    /// A netlink request, an attachment, a row or a sysctl fails; the lease was released. What exists by
    /// then stays: the caller removes it, the device only if it was created.
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
        while_held(store, self.lease, || self.put_rows(&pair.host, dataplane))?;
        self.configure_host_end(&pair.host)?;
        self.configure_pod_end(&pair.pod, pod)?;
        device::add_route(self.host, &host_route(self.lease.address, pair.host.index))?;
        // The kernel activates the end that is set up last at once.
        match device::wait_for_activation(self.host, pair.host.index) {
            Ok(()) => Ok(pair),
            Err(e) => Err(not_activated(&pair.host, e)),
        }
    }

    fn create_veth(&mut self, netns: &NetNs, mtu: u32) -> Result<(), NetworkError> {
        let (host_mac, pod_mac) = identity::macs(&self.lease.key);
        let host_name = self.lease.host_ifname.as_str();
        let pod_name = self.lease.key.ifname.as_str();
        let veth = Veth { host_name, host_mac, pod_name, pod_mac, pod_netns: netns.as_fd(), mtu };
        Ok(device::create_veth(self.host, &veth)?)
    }

    /// Attaches the programs, while both ends are down.
    fn attach(
        &mut self,
        host_end: &Link,
        mechanism: Mechanism,
        dataplane: &Dataplane,
    ) -> Result<(), NetworkError> {
        let hooks = dataplane.hooks().map(|(direction, prog)| (direction, prog.as_fd()));
        attach_new_device(self.host, host_end.index, &hooks, mechanism)
            .map_err(|source| NetworkError::Attach { device: host_end.name.clone(), source })
    }

    /// Writes all rows of the pod, while both ends are down; the lock is held.
    fn put_rows(&self, host_end: &Link, dataplane: &Dataplane) -> Result<(), NetworkError> {
        let Lease { address, host_ports, netns_cookie, .. } = self.lease;
        let row = inventory::local_pod(self.lease, host_end);
        dataplane.pods.put((*address).into(), &row)?;
        dataplane.pods.put_netns(*netns_cookie, (*address).into());
        let ports = host_ports.as_deref().unwrap_or_default();
        Ok(host_port::put(&dataplane.pins, *address, ports)?)
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
}

/// Why a pod does not get a device that would not send its packets, as far as is known.
fn not_activated(host_end: &Link, source: NetlinkError) -> NetworkError {
    let device = host_end.name.clone();
    match source.is_absent() {
        true => NetworkError::DeviceMissing(device),
        false => NetworkError::StateUnknown { device, source },
    }
}

/// Runs `write` under the lock, if the lease still exists. An ADD that took longer than its lease is
/// protected would write over the rows of a pod that has the address by then; and the DEL of another pod
/// with one of the hostPorts could delete the row that it found before.
fn while_held(
    store: &Store,
    lease: &Lease,
    write: impl FnOnce() -> Result<(), NetworkError>,
) -> Result<(), NetworkError> {
    match store.lock_lease(lease, &format!("ADD of {}", lease.owner()))? {
        Some(_locked) => write(),
        None => Err(NetworkError::Released),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::io;
    use std::net::Ipv4Addr;

    use super::*;
    use crate::lease::fixture::{self, at};
    use crate::lease::{LockedStore, Request, StoreError};

    /// Two addresses at a time would not be the same one.
    const ONE_ADDRESS: &str = "10.244.1.0/30";

    fn allocate(locked: &LockedStore<'_>, store: &Store, id: &str, second: u64) -> Lease {
        let request = Request {
            key: fixture::lease(id).key,
            network: "sluice".into(),
            pod_namespace: None,
            pod_name: None,
            pod_uid: None,
            netns: String::new(),
            host_ports: Vec::new(),
            netns_cookie: None,
        };
        let in_use = store.in_use("").unwrap();
        let subnet = ONE_ADDRESS.parse().unwrap();
        locked.allocate(&in_use, subnet, request, &at(second)).unwrap().unwrap()
    }

    /// The first ADD takes minutes between lease and rows; meanwhile its lease ends, and a second ADD
    /// gets address and index.
    #[test]
    fn add_that_outlives_its_lease_writes_no_row_over_those_of_the_next_pod() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        // Rows by address: generation.
        let rows = RefCell::new(BTreeMap::<Ipv4Addr, u16>::new());
        let put = |lease: &Lease| {
            while_held(&store, lease, || {
                rows.borrow_mut().insert(lease.address, lease.row_generation());
                Ok(())
            })
        };
        let locked = store.lock("test").unwrap();
        locked.open(|| Ok::<_, StoreError>(Vec::new())).unwrap();
        let first = allocate(&locked, &store, "first", 1);
        let dead = locked.reclaim([first.clone()], &at(200), |_| false, |_| true).unwrap();
        assert_eq!(dead, std::slice::from_ref(&first));
        let second = allocate(&locked, &store, "second", 300);
        drop(locked);
        assert_eq!((second.address, second.index), (first.address, first.index));

        for before in [false, true] {
            if before {
                put(&second).unwrap();
            }
            let expected = rows.borrow().clone();
            assert!(matches!(put(&first), Err(NetworkError::Released)));
            assert_eq!(*rows.borrow(), expected);
        }
        assert_eq!(rows.borrow()[&second.address], second.row_generation());
        assert_ne!(first.row_generation(), second.row_generation());
    }

    #[test]
    fn lease_does_not_end_while_its_rows_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let locked = store.lock("test").unwrap();
        locked.open(|| Ok::<_, StoreError>(Vec::new())).unwrap();
        let lease = allocate(&locked, &store, "c1", 1);
        drop(locked);
        while_held(&store, &lease, || {
            // It could end now.
            let error = store.lock_briefly("the agent").unwrap_err();
            assert_eq!(error.source.kind(), io::ErrorKind::TimedOut, "{error:?}");
            Ok(())
        })
        .unwrap();
        assert!(store.lock_briefly("the agent").is_ok());
    }
}
