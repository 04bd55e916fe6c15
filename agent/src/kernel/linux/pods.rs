//! Leases, network namespaces and MTU of the pods on this node.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use sluice_bpf::netlink::{Netlink, NetlinkError};
use sluice_pod::inventory::{self, OpenError};
use sluice_pod::lease::{BootInstant, Entry, KnownLeases, Lease, Leases, Store, StoreError};
use sluice_pod::netns::{self, NetNs, NetNsError};

use crate::kernel::KernelError;
use crate::paths::CNI_NETWORK;

/// A lease as the command line shows it.
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

/// All leases in a directory; none if they cannot be read.
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

/// Path of a pod's network namespace: the one in the lease, with /run instead of /var/run, which
/// is not a link to it in the agent's image.
pub fn namespace_path(lease: &Lease) -> Option<PathBuf> {
    if lease.netns.is_empty() {
        return None;
    }
    Some(netns::visible(Path::new(&lease.netns)).into_owned())
}

/// Reads all leases; files that did not change are not read again. Leases of a former version are taken over, and those whose files are damaged
/// rebuilt from their devices, under the lock.
///
/// # Errors
/// The leases cannot be locked, read or written; the devices cannot be listed.
pub fn leases(
    store: &Store,
    known: &mut KnownLeases,
    netlink: &mut Netlink,
) -> Result<Vec<Lease>, OpenError> {
    let Leases { leases, damaged } = store.read_changed(known)?;
    if damaged.is_empty() && store.is_open() {
        return Ok(leases);
    }
    let now = BootInstant::now().map_err(|source| StoreError {
        operation: "read the time of",
        path: store.leases_dir(),
        source,
    })?;
    let locked = store.lock("agent", &now)?;
    let opened = inventory::open_leases(&locked, netlink, CNI_NETWORK, &now)?;
    let damaged = store.read()?.damaged;
    if !damaged.is_empty() {
        let drafts = inventory::rebuild_leases(netlink, CNI_NETWORK, &now)?;
        locked.mend(&damaged, &drafts, &now)?;
    }
    tracing::info!(
        migrated = opened.migrated,
        rebuilt = opened.rebuilt + damaged.len(),
        "leases taken over or rebuilt"
    );
    Ok(store.read()?.leases)
}

/// Releases leases that still read as given.
///
/// # Errors
/// The store cannot be locked, read or written.
pub fn release(store: &Store, now: &BootInstant, leases: &[Lease]) -> Result<(), StoreError> {
    let locked = store.lock("agent", now)?;
    let mut unchanged = Vec::new();
    for lease in leases {
        if store.holds(lease)? {
            unchanged.push(Entry::of(lease));
        }
    }
    locked.release(&unchanged, now)
}

/// Sets the MTU of both ends of a pod's veth pair. Returns false if the pod's network namespace
/// does not exist or is unknown.
///
/// # Errors
/// The namespace cannot be entered, or a device refuses the MTU.
pub fn set_mtu(netlink: &mut Netlink, lease: &Lease, mtu: u32) -> Result<bool, KernelError> {
    let Some(path) = namespace_path(lease) else { return Ok(false) };
    let mut inside = match NetNs::open(&path) {
        Err(NetNsError::Missing) => return Ok(false),
        other => other?.netlink()?,
    };
    set_device_mtu(&mut inside, &lease.key.ifname, mtu)?;
    set_device_mtu(netlink, &lease.host_ifname, mtu)?;
    Ok(true)
}

/// Former MTUs of the uplink, one a line: a file that a reboot removes, as it removes the pods.
fn old_mtus_file(run_dir: &Path) -> PathBuf {
    run_dir.join("former-mtus")
}

/// The stored former MTUs; none without the file.
///
/// # Errors
/// The file cannot be read.
pub fn old_mtus(run_dir: &Path) -> Result<BTreeSet<u32>, KernelError> {
    let path = old_mtus_file(run_dir);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(e) => Err(KernelError::io(format!("read {}", path.display()), e)),
    }
}

/// Stores former MTUs.
///
/// # Errors
/// The file cannot be written.
pub fn store_old_mtus(run_dir: &Path, mtus: &BTreeSet<u32>) -> Result<(), KernelError> {
    let path = old_mtus_file(run_dir);
    let lines: String = mtus.iter().map(|mtu| format!("{mtu}\n")).collect();
    let write = || {
        fs::create_dir_all(run_dir)?;
        fs::write(&path, lines)
    };
    write().map_err(|e| KernelError::io(format!("write {}", path.display()), e))
}

fn set_device_mtu(netlink: &mut Netlink, device: &str, mtu: u32) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(device.to_owned()), LinkAttribute::Mtu(mtu)];
    let operation = format!("set the MTU of {device} to {mtu}");
    netlink.change(RouteNetlinkMessage::SetLink(message), 0, &operation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn former_mtus_read_back_as_stored() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("sluice");
        assert_eq!(old_mtus(&run).unwrap(), BTreeSet::new());
        let mtus = BTreeSet::from([1300, 1500]);
        store_old_mtus(&run, &mtus).unwrap();
        assert_eq!(old_mtus(&run).unwrap(), mtus);
        store_old_mtus(&run, &BTreeSet::new()).unwrap();
        assert_eq!(old_mtus(&run).unwrap(), BTreeSet::new());
    }
}
