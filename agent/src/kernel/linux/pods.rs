//! Leases, network namespaces and MTU of the pods on this node.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use sluice_abi::pin;
use sluice_bpf::error_chain;
use sluice_bpf::netlink::Netlink;
use sluice_pod::inventory::{self, HostLinks};
use sluice_pod::lease::{BootInstant, Entry, KnownLeases, Lease, Leases, LockedStore, Store};
use sluice_pod::netns::{self, NetNs, NetNsError};
use sluice_pod::{Kept, Reclaim, Reclaimed};

use crate::kernel::{KernelError, LeaseLock, LockedLeases, Result};
use crate::paths::CNI_NETWORK;

/// How the agent names itself to calls that wait for the lock of the leases.
const HOLDER: &str = "agent";

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

/// Whether the network namespace of a lease may exist.
pub fn netns_may_exist(lease: &Lease) -> bool {
    netns::may_exist(Path::new(&lease.netns), lease.netns_cookie)
}

/// Whether the network namespace of a lease is visible here.
pub fn netns_exists(lease: &Lease) -> bool {
    netns::exists(Path::new(&lease.netns), lease.netns_cookie)
}

/// Leases that were read before.
#[derive(Debug, Default)]
pub struct Known {
    leases: KnownLeases,
    /// Damaged ones that the last attempt could neither rebuild nor end.
    kept: BTreeSet<Entry>,
}

impl Known {
    /// Reads what has changed. Returns the leases, and whether there is something to prepare that was not
    /// tried before.
    fn read(&mut self, store: &Store) -> Result<(Vec<Lease>, bool)> {
        let Leases { leases, damaged } = store.read_changed(&mut self.leases)?;
        let is_new = damaged.iter().any(|entry| !self.kept.contains(entry));
        Ok((leases, is_new || !store.is_open()))
    }
}

/// Reads all leases; files that did not change are not read again. Leases of a former version are taken
/// over, and those whose files are damaged rebuilt from their devices, under the lock. Damaged ones that
/// stay are tried again by [`mend_leases`] only.
///
/// # Errors
/// The leases cannot be locked, read or written; the devices cannot be listed.
pub fn leases(store: &Store, known: &mut Known, netlink: &mut Netlink) -> Result<Vec<Lease>> {
    match known.read(store)? {
        (leases, false) => Ok(leases),
        (_, true) => Ok(lock_leases(store, known, netlink)?.leases),
    }
}

/// Reads all leases as [`leases`] does, and keeps others from changing them.
///
/// # Errors
/// As for [`leases`].
pub fn lock_leases(
    store: &Store,
    known: &mut Known,
    netlink: &mut Netlink,
) -> Result<LockedLeases> {
    let locked = store.lock_briefly(HOLDER)?;
    let (mut leases, unprepared) = known.read(store)?;
    if unprepared {
        for kept in prepare(store, &locked, known, netlink, &now()?)? {
            tracing::warn!(error = %error_chain(&kept), "damaged lease kept");
        }
        leases = known.read(store)?.0;
    }
    Ok(LockedLeases { leases, _lock: LeaseLock::new(locked.into_lock()) })
}

/// Tries to rebuild or to end all damaged leases; returns those that stay. Without one, the lock is not
/// taken.
///
/// # Errors
/// As for [`leases`].
pub fn mend_leases(store: &Store, known: &mut Known, netlink: &mut Netlink) -> Result<Vec<Kept>> {
    if store.is_open() && store.read_changed(&mut known.leases)?.damaged.is_empty() {
        known.kept.clear();
        return Ok(Vec::new());
    }
    let locked = store.lock_briefly(HOLDER)?;
    prepare(store, &locked, known, netlink, &now()?)
}

/// Takes leases of a former version over and rebuilds those that are lost or damaged. Returns those that
/// stay damaged.
fn prepare(
    store: &Store,
    locked: &LockedStore<'_>,
    known: &mut Known,
    netlink: &mut Netlink,
    now: &BootInstant,
) -> Result<Vec<Kept>> {
    let opened = inventory::open_leases(locked, netlink, CNI_NETWORK, now)?;
    let damaged = store.read_changed(&mut known.leases)?.damaged;
    let mut kept = Vec::new();
    if !damaged.is_empty() {
        let drafts = inventory::rebuild_leases(netlink, CNI_NETWORK, now)?;
        let links = HostLinks::read(netlink)?;
        let reclaim = Reclaim { locked, pins: Path::new(pin::ROOT), now };
        kept = reclaim.damaged(&damaged, &links, &drafts)?;
    }
    known.kept = store.read_changed(&mut known.leases)?.damaged.into_iter().collect();
    let mended = damaged.len().saturating_sub(known.kept.len());
    let (migrated, rebuilt) = (opened.migrated, opened.rebuilt);
    if migrated + rebuilt + mended > 0 {
        tracing::info!(migrated, rebuilt, mended, "leases taken over, rebuilt or mended");
    }
    Ok(kept)
}

/// Locks the leases if this one exists as it is.
///
/// # Errors
/// The store cannot be locked or read.
pub fn lock_lease(store: &Store, lease: &Lease) -> Result<Option<LeaseLock>> {
    Ok(store.lock_lease_briefly(lease, HOLDER)?.map(LeaseLock::new))
}

/// Releases leases that still read as given and are not live, which is judged again under the lock, after
/// their rows.
///
/// # Errors
/// The store cannot be locked, read or written; the devices cannot be listed.
pub fn release(store: &Store, netlink: &mut Netlink, leases: &[Lease]) -> Result<Reclaimed> {
    let locked = store.lock_briefly(HOLDER)?;
    // Before the devices, after the lock.
    let now = now()?;
    let links = HostLinks::read(netlink)?;
    let reclaim = Reclaim { locked: &locked, pins: Path::new(pin::ROOT), now: &now };
    Ok(reclaim.dead(leases.iter().cloned(), &links, netns_may_exist)?)
}

/// The present time on the clock of the leases.
///
/// # Errors
/// It cannot be read.
pub fn now() -> Result<BootInstant> {
    BootInstant::now().map_err(|e| KernelError::io("read the time since boot", e))
}

/// Sets the MTU of both ends of a pod's veth pair. Returns false if the pod's network namespace
/// does not exist or is unknown.
///
/// # Errors
/// The namespace cannot be entered, or a device refuses the MTU.
pub fn set_mtu(netlink: &mut Netlink, lease: &Lease, mtu: u32) -> Result<bool> {
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
pub fn old_mtus(run_dir: &Path) -> Result<BTreeSet<u32>> {
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
pub fn store_old_mtus(run_dir: &Path, mtus: &BTreeSet<u32>) -> Result<()> {
    let path = old_mtus_file(run_dir);
    let lines: String = mtus.iter().map(|mtu| format!("{mtu}\n")).collect();
    let write = || {
        fs::create_dir_all(run_dir)?;
        fs::write(&path, lines)
    };
    write().map_err(|e| KernelError::io(format!("write {}", path.display()), e))
}

fn set_device_mtu(netlink: &mut Netlink, device: &str, mtu: u32) -> Result<()> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(device.to_owned()), LinkAttribute::Mtu(mtu)];
    let operation = format!("set the MTU of {device} to {mtu}");
    Ok(netlink.change(RouteNetlinkMessage::SetLink(message), 0, &operation)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_lease_that_stays_needs_the_lock_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let entry = Entry::parse("10.244.1.7+12+slc0123456789a").unwrap();
        fs::create_dir_all(store.leases_dir()).unwrap();
        fs::write(store.leases_dir().join(entry.file_name()), "{").unwrap();
        let mut known = Known::default();
        assert_eq!(known.read(&store).unwrap(), (Vec::new(), true));
        known.kept.insert(entry);
        let _held = store.lock_briefly("ADD").unwrap();
        let mut netlink = Netlink::open().unwrap();
        assert_eq!(leases(&store, &mut known, &mut netlink).unwrap(), []);
        assert!(mend_leases(&store, &mut known, &mut netlink).is_err(), "the lock is held");
        // A lease that was damaged since.
        fs::write(store.leases_dir().join("10.244.1.8+13+slc0123456789b"), "{").unwrap();
        assert!(leases(&store, &mut known, &mut netlink).is_err(), "the lock is held");
    }

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
