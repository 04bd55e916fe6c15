//! What the host's own devices tell of the pods: which leases live, which were forgotten, and
//! the rows of `LOCAL_PODS`.

use std::collections::BTreeMap;

use sluice_abi::{Addr, LocalPod};

use crate::device::{self, Link, ROUTE_PROTOCOL};
use crate::identity;
use crate::lease::{BootInstant, Lease};
use sluice_bpf::netlink::{Netlink, NetlinkError};

/// How long an ADD may be at work before its lease without a device counts as left over. The
/// runtimes give up long before.
const ADD_LIMIT_SECONDS: u64 = 120;

/// The host's ends of pod veth pairs, as they are now.
#[derive(Debug)]
pub struct HostLinks {
    by_name: BTreeMap<String, Link>,
}

impl HostLinks {
    /// Reads them.
    ///
    /// # Errors
    /// The kernel's refusal; an interrupted dump is read again, never believed.
    pub fn read(netlink: &mut Netlink) -> Result<HostLinks, NetlinkError> {
        Ok(HostLinks::from_links(device::links(netlink)?))
    }

    /// Keeps the devices of pods among `links`.
    pub fn from_links(links: Vec<Link>) -> HostLinks {
        let of_pods = links.into_iter().filter(|link| link.name.starts_with(identity::HOST_PREFIX));
        HostLinks { by_name: of_pods.map(|link| (link.name.clone(), link)).collect() }
    }

    /// The host's end of a lease's pair.
    pub fn of(&self, lease: &Lease) -> Option<&Link> {
        self.by_name.get(&lease.host_ifname)
    }

    /// Whether a lease's pod may still be there. A veth pair dies with the pod's network
    /// namespace, so a lease without one is left over, unless its ADD may still be at work.
    pub fn is_live(&self, lease: &Lease, now: &BootInstant) -> bool {
        self.of(lease).is_some() || lease.since.age(now).is_some_and(|age| age < ADD_LIMIT_SECONDS)
    }

    /// The rows of `LOCAL_PODS` that these leases stand for; a lease without a device has none.
    pub fn local_pods(&self, leases: &[Lease]) -> Vec<(Addr, LocalPod)> {
        leases
            .iter()
            .filter_map(|lease| Some((lease.address.into(), local_pod(lease, self.of(lease)?))))
            .collect()
    }
}

/// The row of `LOCAL_PODS` of a lease whose host end is `link`.
pub fn local_pod(lease: &Lease, link: &Link) -> LocalPod {
    let (host_mac, pod_mac) = identity::macs(&lease.key);
    LocalPod { ifindex: link.index, pod_mac, host_mac: link.mac.unwrap_or(host_mac) }
}

/// The leases that the devices and routes of the host tell of, for when the state on disk is
/// lost. An attachment whose ADD never ended has no route and is not among them.
///
/// # Errors
/// The kernel's refusal.
pub fn rebuild_leases(
    netlink: &mut Netlink,
    network: &str,
    now: &BootInstant,
) -> Result<Vec<Lease>, NetlinkError> {
    let links = HostLinks::read(netlink)?;
    let by_index: BTreeMap<u32, &Link> = links.by_name.values().map(|l| (l.index, l)).collect();
    let mut leases = Vec::new();
    for route in device::routes(netlink)? {
        if route.prefix != 32 || route.protocol != ROUTE_PROTOCOL {
            continue;
        }
        let Some(link) = by_index.get(&route.oif) else { continue };
        let alias = link.alias.as_deref().unwrap_or_default();
        let Some((key, pod)) = identity::read_alias(alias) else { continue };
        let (pod_namespace, pod_name) = pod.unzip();
        leases.push(Lease {
            address: route.dst,
            key,
            network: network.to_owned(),
            pod_namespace,
            pod_name,
            netns: String::new(),
            host_ifname: link.name.clone(),
            since: now.clone(),
        });
    }
    Ok(leases)
}
