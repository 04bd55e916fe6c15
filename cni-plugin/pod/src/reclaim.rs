//! The end of leases without a DEL: of pods that do not exist any more, and of damaged files without a
//! device. The CNI binary ends them in a full range and in GC, the agent periodically.
//!
//! ```text
//! lock --> time, devices --> rows of the pod removed --> lease removed
//! ```
//! All under the lock: an ADD writes rows under it, after its device exists and while it holds its lease. So
//! it has its device by the time at which the devices are read, or it fails; and no row leads to an address
//! that another pod can get.

use std::net::Ipv4Addr;
use std::path::Path;

use sluice_bpf::BpfError;

use crate::inventory::HostLinks;
use crate::lease::{BootInstant, Draft, Entry, Lease, LockedStore, StoreError};
use crate::network::{RowKeys, remove_local_pod};

/// A locked store, and what leads to the pods of its leases.
#[derive(Clone, Copy, Debug)]
pub struct Reclaim<'a> {
    /// The store.
    pub locked: &'a LockedStore<'a>,
    /// Folder of the pins.
    pub pins: &'a Path,
    /// The present time, read before the devices.
    pub now: &'a BootInstant,
}

/// Leases that ended, and those that could not.
#[derive(Debug, Default)]
pub struct Reclaimed {
    /// Those that ended.
    pub released: Vec<Lease>,
    /// Those that could not.
    pub kept: Vec<Kept>,
}

/// A lease that stays.
#[derive(Debug, thiserror::Error)]
pub enum Kept {
    /// One of its rows cannot be deleted: its address would lead to another pod.
    #[error("lease of {address} not released: row not deleted")]
    HasRow {
        /// The address of the lease.
        address: Ipv4Addr,
        /// The cause.
        #[source]
        source: BpfError,
    },
    /// Its file is damaged, and the pod's device exists but does not show what was in it: its alias or
    /// its route is missing.
    #[error(
        "damaged lease of {address} not rebuilt: device {host_ifname} has no alias or no route; delete \
         its pod"
    )]
    HasDevice {
        /// The address of the lease.
        address: Ipv4Addr,
        /// Host's end of the veth pair.
        host_ifname: String,
    },
}

impl Reclaim<'_> {
    /// Ends those of `leases` that still exist as they are and are not live
    /// ([`HostLinks::is_live`]). `links` was read under the lock.
    ///
    /// # Errors
    /// A file cannot be read, written or deleted.
    pub fn dead(
        &self,
        leases: impl IntoIterator<Item = Lease>,
        links: &HostLinks,
        netns_exists: impl Fn(&Lease) -> bool,
    ) -> Result<Reclaimed, StoreError> {
        let mut kept = Vec::new();
        let live = |lease: &Lease| links.is_live(lease, self.now, &netns_exists);
        let remove = |lease: &Lease| self.remove_rows(lease.into(), &mut kept);
        let released = self.locked.reclaim(leases, self.now, live, remove)?;
        Ok(Reclaimed { released, kept })
    }

    /// Rebuilds damaged leases from `drafts`, what devices and routes show, and ends those without a
    /// device in `links`, which were read under the lock. Returns those that stay damaged: the pod of a
    /// device that shows no lease runs, and has the address.
    ///
    /// # Errors
    /// A file cannot be read, moved or written.
    pub fn damaged(
        &self,
        damaged: &[Entry],
        links: &HostLinks,
        drafts: &[Draft],
    ) -> Result<Vec<Kept>, StoreError> {
        let mut kept = Vec::new();
        let mut mendable = Vec::new();
        for entry in damaged {
            let is_rebuilt = drafts.iter().any(|draft| draft.is_of(entry));
            if !is_rebuilt && links.has(&entry.host_ifname) {
                let Entry { address, host_ifname, .. } = entry.clone();
                kept.push(Kept::HasDevice { address, host_ifname });
            } else if is_rebuilt || self.remove_rows(entry.into(), &mut kept) {
                mendable.push(entry.clone());
            }
        }
        self.locked.mend(&mendable, drafts, self.now)?;
        Ok(kept)
    }

    fn remove_rows(&self, keys: RowKeys<'_>, kept: &mut Vec<Kept>) -> bool {
        let address = keys.address;
        let removed = remove_local_pod(self.pins, keys);
        let is_removed = removed.is_ok();
        kept.extend(removed.err().map(|source| Kept::HasRow { address, source }));
        is_removed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs;

    use sluice_abi::map;

    use super::*;
    use crate::device::{Link, LinkLayer};
    use crate::lease::Store;
    use crate::lease::fixture::{self, at};

    fn device(name: &str) -> Link {
        Link {
            index: 12,
            name: name.to_owned(),
            mac: None,
            alias: None,
            mtu: 1500,
            up: true,
            layer: LinkLayer::Ethernet,
            loopback: false,
            master: None,
            veth: true,
            vlan_of: None,
        }
    }

    #[test]
    fn a_damaged_lease_ends_only_without_a_device_and_after_its_rows() {
        let (dir, pins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store::new(dir.path());
        let now = at(1);
        let locked = store.lock("test").unwrap();
        locked.open(|| Ok::<_, StoreError>(Vec::new())).unwrap();
        let entry = Entry::of(&fixture::lease("c1"));
        fs::write(store.leases_dir().join(entry.file_name()), "{").unwrap();
        let reclaim = Reclaim { locked: &locked, pins: pins.path(), now: &now };
        let damaged = std::slice::from_ref(&entry);
        let kept = |links| {
            let links = HostLinks::from_links(links);
            let kept = reclaim.damaged(damaged, &links, &[]).unwrap();
            (kept, store.entries().unwrap())
        };

        // The device of a pod whose route or alias another program has deleted.
        let (reasons, entries) = kept(vec![device(&entry.host_ifname)]);
        assert!(matches!(reasons[..], [Kept::HasDevice { .. }]), "{reasons:?}");
        assert_eq!(entries, damaged);
        // A map that cannot be opened.
        let map = pins.path().join("maps").join(map::LOCAL_PODS);
        fs::create_dir(pins.path().join("maps")).unwrap();
        fs::write(&map, "").unwrap();
        let (reasons, entries) = kept(Vec::new());
        assert!(matches!(reasons[..], [Kept::HasRow { .. }]), "{reasons:?}");
        assert_eq!(entries, damaged);
        fs::remove_file(&map).unwrap();
        let (reasons, entries) = kept(vec![device("slc0000000000a")]);
        assert!(reasons.is_empty(), "{reasons:?}");
        assert_eq!(entries, []);
    }
}
