//! The pods of this node: leases of the CNI binary against the table of endpoints.
//!
//! CNI ADD and DEL keep both in step without the agent; this repairs what a crash or an upgrade
//! left: rows that lack, rows of pods that are gone, programs on each pod's veth, leases whose
//! sandbox vanished without a DEL.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use sluice_abi::{Addr, LocalPod, pin};
use sluice_bpf::BpfError;
use sluice_bpf::netlink::{Netlink, NetlinkError};
use sluice_pod::inventory::HostLinks;
use sluice_pod::lease::{BootInstant, Lease, Store, StoreError};
use sluice_pod::{Dataplane, NetworkError, PodNetwork, device};

use crate::dataplane::maps::Maps;

/// How names of the host ends of veth pairs begin.
pub const VETH_PREFIX: &str = sluice_pod::identity::HOST_PREFIX;

/// What could not be repaired.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The leases cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The table cannot be read or written.
    #[error(transparent)]
    Map(#[from] BpfError),
    /// A device cannot be read.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Programs could not be attached.
    #[error("pod {pod}")]
    Pod {
        /// Whose.
        pod: String,
        /// Why.
        #[source]
        source: Box<NetworkError>,
    },
}

/// What [`repair`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Pods of this node.
    pub pods: usize,
    /// Rows written because they were missing or wrong.
    pub rows_written: usize,
    /// Rows removed because no device is there.
    pub rows_removed: usize,
    /// Pods whose programs were attached or replaced.
    pub attached: usize,
}

/// Brings the table of endpoints and the programs on veths in line with the leases.
///
/// # Errors
/// When leases or table cannot be read; the first pod that could not be served, after all others.
pub fn repair(state_dir: &Path, maps: &Maps) -> Result<Repaired, EndpointError> {
    let mut netlink = Netlink::open()?;
    let dataplane = Dataplane::open(Path::new(pin::ROOT))?;
    let mut leases = Store::new(state_dir).read()?.leases;
    let links = HostLinks::read(&mut netlink)?;
    // ADD takes a link up when everything is in place; before that it is ADD's alone.
    leases.retain(|lease| links.of(lease).is_some_and(|link| link.up));
    let mut done = Repaired { pods: leases.len(), ..Repaired::default() };
    let mut failed = Vec::new();
    let rows: BTreeMap<Addr, LocalPod> = maps.local_pods.entries()?.into_iter().collect();
    for lease in &leases {
        let Some(link) = links.of(lease) else { continue };
        match (PodNetwork { host: &mut netlink, lease }).repair(link, &dataplane) {
            Ok(repaired) => {
                done.attached += usize::from(repaired.programs);
                done.rows_written += usize::from(repaired.row);
            }
            Err(source) => failed.push((link.index, lease.owner(), source)),
        }
    }
    let wanted: BTreeSet<Addr> = leases.iter().map(|lease| lease.address.into()).collect();
    let devices: BTreeSet<u32> =
        device::links(&mut netlink)?.into_iter().map(|l| l.index).collect();
    for (addr, row) in &rows {
        // ADD writes the row before it is done: only what has no device is surely old.
        if !wanted.contains(addr) && !devices.contains(&row.ifindex) {
            maps.local_pods.delete(addr)?;
            done.rows_removed += 1;
        }
    }
    // A pod that went meanwhile is no failure.
    match failed.into_iter().find(|(ifindex, ..)| devices.contains(ifindex)) {
        Some((_, pod, source)) => Err(EndpointError::Pod { pod, source: Box::new(source) }),
        None => Ok(done),
    }
}

/// A pod's network namespace as the lease names it, or where the agent's own image sees it.
pub fn namespace_path(lease: &Lease) -> Option<PathBuf> {
    if lease.netns.is_empty() {
        return None;
    }
    let path = PathBuf::from(&lease.netns);
    match path.strip_prefix("/var/run/netns") {
        Ok(rest) if !path.exists() => Some(Path::new("/run/netns").join(rest)),
        _ => Some(path),
    }
}

/// Namespaces of all pods of this node.
pub fn namespaces(state_dir: &Path) -> Vec<PathBuf> {
    let leases = Store::new(state_dir).read().map(|s| s.leases).unwrap_or_default();
    leases.iter().filter_map(namespace_path).collect()
}

/// A lease in the words of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The pod's address.
    pub address: IpAddr,
    /// Host end of its veth pair.
    pub device: String,
    /// `namespace/name`.
    pub pod: String,
    /// Container id of its sandbox.
    pub container: String,
}

/// All leases, or none where they cannot be read.
pub fn names(state_dir: &Path) -> Vec<Named> {
    let leases = Store::new(state_dir).read().map(|s| s.leases).unwrap_or_default();
    leases
        .into_iter()
        .map(|l| Named {
            address: IpAddr::V4(l.address),
            pod: l.owner(),
            device: l.host_ifname,
            container: l.key.container_id,
        })
        .collect()
}

/// Frees the leases whose sandbox is gone for good (a reboot, a crash in the middle of ADD): the
/// veth pair dies with the sandbox's namespace. Returns their owners.
///
/// # Errors
/// When the leases cannot be read or written.
pub fn reclaim(state_dir: &Path) -> anyhow::Result<Vec<String>> {
    let store = Store::new(state_dir);
    let links = HostLinks::read(&mut Netlink::open()?)?;
    let now = BootInstant::now()?;
    let live = |lease: &Lease| links.is_live(lease, &now);
    if store.read()?.leases.iter().all(live) {
        return Ok(Vec::new());
    }
    let freed = store.reclaim(&now, live)?;
    Ok(freed.iter().map(Lease::owner).collect())
}
