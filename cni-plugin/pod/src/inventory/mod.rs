//! What the host's devices show about the pods: live leases, the rows of `LOCAL_PODS`, and the leases
//! themselves if their files are lost.

use std::collections::BTreeMap;

use sluice_abi::{Addr, LocalPod, namespace_id};
use sluice_bpf::netlink::{Netlink, NetlinkError};

use crate::ROUTE_PROTOCOL;
use crate::device::{self, Link, Route};
use crate::identity::{self, Alias};
use crate::lease::{BootInstant, Draft, Lease, LockedStore, Opened, StoreError};

/// Age up to which a lease without a device belongs to an ADD that still runs. Most container runtimes end
/// an ADD earlier; one that takes longer fails if its lease has been released by then.
const ADD_LIMIT_SECONDS: u64 = 120;

/// The host's ends of the pods' veth pairs at one moment.
#[derive(Debug)]
pub struct HostLinks {
    by_name: BTreeMap<String, Link>,
}

impl HostLinks {
    /// Lists the devices and keeps those of pods.
    ///
    /// # Errors
    /// The devices cannot be listed, or every dump was interrupted.
    pub fn read(netlink: &mut Netlink) -> Result<HostLinks, NetlinkError> {
        Ok(HostLinks::from_links(device::links(netlink)?))
    }

    /// Keeps the devices of pods among `links`.
    pub fn from_links(links: Vec<Link>) -> HostLinks {
        let of_pods = links.into_iter().filter(|link| link.name.starts_with(identity::HOST_PREFIX));
        HostLinks { by_name: of_pods.map(|link| (link.name.clone(), link)).collect() }
    }

    /// The host's end of a lease's veth pair.
    pub fn of(&self, lease: &Lease) -> Option<&Link> {
        self.by_name.get(&lease.host_ifname)
    }

    /// Whether a host's end with this name exists.
    pub fn has(&self, host_ifname: &str) -> bool {
        self.by_name.contains_key(host_ifname)
    }

    /// Whether the pod of a lease can exist: it has its veth pair, its ADD can still be running, or its
    /// network namespace exists, which is asked last. A pod can delete its interface, and other programs
    /// the host's end, while its processes use the address. No network namespace outlives a boot.
    pub fn is_live(
        &self,
        lease: &Lease,
        now: &BootInstant,
        netns_exists: impl FnOnce(&Lease) -> bool,
    ) -> bool {
        let in_time = |age| age < ADD_LIMIT_SECONDS || netns_exists(lease);
        self.of(lease).is_some() || lease.since.age(now).is_some_and(in_time)
    }

    /// The rows of `LOCAL_PODS` for these leases; a lease without a device has none.
    pub fn local_pods(&self, leases: &[Lease]) -> Vec<(Addr, LocalPod)> {
        leases
            .iter()
            .filter_map(|lease| Some((lease.address.into(), local_pod(lease, self.of(lease)?))))
            .collect()
    }
}

/// The row of `LOCAL_PODS` and `PODS` for a lease whose host end is `link`.
pub fn local_pod(lease: &Lease, link: &Link) -> LocalPod {
    let (host_mac, pod_mac) = identity::macs(&lease.key);
    LocalPod {
        namespace: lease.pod_namespace.as_deref().map_or(0, namespace_id),
        ifindex: link.index,
        pod_mac,
        host_mac: link.mac.unwrap_or(host_mac),
        // Indices are below the capacity of the maps.
        index: lease.index as u16,
        generation: lease.row_generation(),
        pad: 0,
    }
}

/// Leases that could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The leases are lost, and the devices that show them could not be listed.
    #[error(transparent)]
    Rebuild(#[from] NetlinkError),
}

/// Prepares the leases: takes over those of a former version, or rebuilds lost ones of `network`
/// from the devices.
///
/// # Errors
/// A file cannot be read or written; the devices cannot be listed.
pub fn open_leases(
    locked: &LockedStore<'_>,
    netlink: &mut Netlink,
    network: &str,
    now: &BootInstant,
) -> Result<Opened, OpenError> {
    locked.open(|| Ok(rebuild_leases(netlink, network, now)?))
}

/// Shows the leases of `network` by devices, their aliases and their routes. An attachment whose ADD
/// did not end has no route, and gets no lease.
///
/// # Errors
/// Devices or routes cannot be listed.
pub fn rebuild_leases(
    netlink: &mut Netlink,
    network: &str,
    now: &BootInstant,
) -> Result<Vec<Draft>, NetlinkError> {
    let links = HostLinks::read(netlink)?;
    Ok(drafts_from(&links, &device::routes(netlink)?, network, now))
}

fn drafts_from(
    links: &HostLinks,
    routes: &[Route],
    network: &str,
    now: &BootInstant,
) -> Vec<Draft> {
    let by_index: BTreeMap<u32, &Link> = links.by_name.values().map(|l| (l.index, l)).collect();
    let of_pods = routes.iter().filter(|r| r.prefix == 32 && r.protocol == ROUTE_PROTOCOL);
    of_pods
        .filter_map(|route| {
            let link = by_index.get(&route.oif)?;
            let Alias { key, pod, number } = identity::parse_alias(link.alias.as_deref()?)?;
            let (pod_namespace, pod_name) = pod.unzip();
            let lease = Lease {
                address: route.dst,
                index: 0,
                generation: 0,
                key,
                network: network.to_owned(),
                pod_namespace,
                pod_name,
                pod_uid: None,
                netns: String::new(),
                host_ifname: link.name.clone(),
                since: now.clone(),
                host_ports: None,
                netns_cookie: None,
            };
            Some(Draft { lease, number })
        })
        .collect()
}

#[cfg(test)]
mod tests;
