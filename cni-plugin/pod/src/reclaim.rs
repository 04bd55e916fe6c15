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
    /// Those that have a row that cannot be deleted.
    pub kept: Vec<Kept>,
}

/// A lease that stays, because one of its rows cannot be deleted: its address would lead to another pod.
#[derive(Debug, thiserror::Error)]
#[error("lease of {address} not released: row not deleted")]
pub struct Kept {
    /// The address of the lease.
    pub address: Ipv4Addr,
    /// The cause.
    #[source]
    pub source: BpfError,
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

    /// Rebuilds damaged leases from `drafts`, what the devices show, and ends those without a device.
    /// Returns those that stay damaged.
    ///
    /// # Errors
    /// A file cannot be read, moved or written.
    pub fn damaged(&self, damaged: &[Entry], drafts: &[Draft]) -> Result<Vec<Kept>, StoreError> {
        let mut kept = Vec::new();
        let mut mendable = Vec::new();
        for entry in damaged {
            let is_rebuilt = drafts.iter().any(|draft| draft.is_of(entry));
            if is_rebuilt || self.remove_rows(entry.into(), &mut kept) {
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
        kept.extend(removed.err().map(|source| Kept { address, source }));
        is_removed
    }
}
