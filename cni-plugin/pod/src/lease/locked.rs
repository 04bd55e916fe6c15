//! Changes of the leases, under the lock.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::allocation::{Allocation, lowest_free_index};
use super::generation::Generations;
use super::number::number;
use super::store::{create_dir, failed};
use super::{
    AllocError, BootInstant, Draft, Entry, FormerState, InUse, Lease, LeaseKey, Store, StoreError,
    Subnet,
};
use crate::{HostPort, identity};

/// What ADD knows of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The attachment.
    pub key: LeaseKey,
    /// Name of the CNI network.
    pub network: String,
    /// `K8S_POD_NAMESPACE`.
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub pod_name: Option<String>,
    /// `K8S_POD_UID`.
    pub pod_uid: Option<String>,
    /// `CNI_NETNS`.
    pub netns: String,
    /// hostPorts of the pod.
    pub host_ports: Vec<HostPort>,
    /// Cookie of the network namespace, if the kernel has one.
    pub netns_cookie: Option<u64>,
}

/// What [`LockedStore::open`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Leases that came from the file of a former version.
    pub migrated: usize,
    /// Leases that were rebuilt from the host's devices.
    pub rebuilt: usize,
    /// Where a file of a former version that could not be parsed is kept.
    pub kept: Option<PathBuf>,
}

/// A store that no other process changes while this value exists.
#[derive(Debug)]
pub struct LockedStore<'a> {
    store: &'a Store,
    lock: File,
}

/// The lock of a store, while this value exists.
#[derive(Debug)]
pub struct HeldLock {
    _file: File,
}

impl<'a> LockedStore<'a> {
    pub(super) fn new(store: &'a Store, lock: File) -> LockedStore<'a> {
        LockedStore { store, lock }
    }

    /// Keeps the lock if this lease exists as it is.
    pub(super) fn if_holds(self, lease: &Lease) -> Result<Option<HeldLock>, StoreError> {
        Ok(self.store.holds(lease)?.then(|| self.into_lock()))
    }

    /// Keeps the lock without the store.
    pub fn into_lock(self) -> HeldLock {
        HeldLock { _file: self.lock }
    }

    /// Prepares the folder: takes over the leases of a former version, or, if there are no leases
    /// at all, those that `rebuild` finds. The folder appears with all of them or not at all.
    ///
    /// # Errors
    /// The first of `rebuild`, which is called only if it is needed, or of the files.
    pub fn open<E: From<StoreError>>(
        &self,
        rebuild: impl FnOnce() -> Result<Vec<Draft>, E>,
    ) -> Result<Opened, E> {
        if self.store.is_open() {
            return Ok(Opened::default());
        }
        let mut opened = Opened::default();
        for path in &self.store.former {
            let bytes = match fs::read(path) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed("read", path)(e).into()),
            };
            let Ok(former) = FormerState::from_json(&bytes) else {
                opened.kept = Some(keep_aside(path)?);
                continue;
            };
            opened.migrated += self.take_over(former.drafts(), Some(&former.allocation()))?;
            fs::remove_file(path).map_err(failed("delete", path))?;
        }
        if !self.store.leases_dir().exists() {
            opened.rebuilt = self.take_over(rebuild()?, None)?;
        }
        Ok(opened)
    }

    /// Writes the leases of `drafts`. An existing lease of the same attachment stays if it has the
    /// same address; one with the address of a draft, or of its attachment with another address, is
    /// older than the draft and is replaced.
    fn take_over(
        &self,
        drafts: Vec<Draft>,
        allocation: Option<&Allocation>,
    ) -> Result<usize, StoreError> {
        let dir = self.store.leases_dir();
        let exists = dir.exists();
        let target = if exists { dir.clone() } else { self.store.dir.join("leases.new") };
        if !exists && target.exists() {
            fs::remove_dir_all(&target).map_err(failed("delete", &target))?;
        }
        create_dir(&target)?;
        let mut drafts = drafts;
        let mut used = BTreeSet::new();
        for entry in self.store.entries()? {
            let same = |d: &Draft| d.is_of(&entry);
            let conflicts = |d: &Draft| {
                d.lease.address == entry.address || d.lease.host_ifname == entry.host_ifname
            };
            if drafts.iter().any(same) {
                drafts.retain(|draft| !same(draft));
            } else if drafts.iter().any(conflicts) {
                let path = self.store.path(&entry);
                fs::remove_file(&path).map_err(failed("delete", &path))?;
                continue;
            }
            used.insert(entry.index);
        }
        let generations = self.generations()?;
        let leases = number(drafts, &mut used, |index| generations.next(index))
            .map_err(failed("number the leases of", &self.store.dir))?;
        for lease in &leases {
            self.count_from(&generations, lease)?;
            self.write(&target.join(Entry::of(lease).file_name()), lease)?;
        }
        if let Some(allocation) = allocation {
            self.save_allocation(allocation)?;
        }
        if !exists {
            fs::rename(&target, &dir).map_err(failed("create folder", &dir))?;
        }
        Ok(leases.len())
    }

    /// Allocates an address, an index and a generation, and writes the lease. `in_use` is the
    /// present content of the store. The inner error leaves everything as it was.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn allocate(
        &self,
        in_use: &InUse,
        subnet: Subnet,
        request: Request,
        now: &BootInstant,
    ) -> Result<Result<Lease, AllocError>, StoreError> {
        let mut allocation = self.allocation()?;
        let index = lowest_free_index(in_use.indexes());
        let leased = |address| in_use.has(address);
        let (address, index) = match (allocation.choose(subnet, leased, now), index) {
            (Ok(address), Ok(index)) => (address, index),
            (Err(e), _) | (_, Err(e)) => return Ok(Err(e)),
        };
        let Request { key, network, pod_namespace, pod_name, pod_uid, .. } = request;
        let Request { netns, host_ports, netns_cookie, .. } = request;
        let lease = Lease {
            address,
            index,
            generation: self.next_generation(&self.generations()?, index)?,
            host_ifname: identity::host_ifname(&key),
            key,
            network,
            pod_namespace,
            pod_name,
            pod_uid,
            netns,
            since: now.clone(),
            host_ports: Some(host_ports),
            netns_cookie,
        };
        self.write(&self.store.path(&Entry::of(&lease)), &lease)?;
        self.save_allocation(&allocation)?;
        Ok(Ok(lease))
    }

    /// Ends leases; the reuse delay of their addresses begins.
    ///
    /// # Errors
    /// A file cannot be read, written or deleted.
    pub fn release<'e>(
        &self,
        entries: impl IntoIterator<Item = &'e Entry>,
        now: &BootInstant,
    ) -> Result<(), StoreError> {
        let entries: Vec<&Entry> = entries.into_iter().collect();
        if entries.is_empty() {
            return Ok(());
        }
        let mut allocation = self.allocation()?;
        entries.iter().for_each(|entry| allocation.release(entry.address, now));
        // First: an address must not be free without its reuse delay.
        self.save_allocation(&allocation)?;
        for entry in entries {
            let path = self.store.path(entry);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("delete", &path)(e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends those of `leases` that still exist as they are and are not live; returns them. Before,
    /// `remove_rows` removes what leads to the pod of a lease; a lease for which it returns false stays,
    /// because its address would lead to another pod.
    ///
    /// # Errors
    /// A file cannot be read, written or deleted.
    pub fn reclaim(
        &self,
        leases: impl IntoIterator<Item = Lease>,
        now: &BootInstant,
        live: impl Fn(&Lease) -> bool,
        mut remove_rows: impl FnMut(&Lease) -> bool,
    ) -> Result<Vec<Lease>, StoreError> {
        let mut dead = Vec::new();
        for lease in leases {
            if !live(&lease) && self.store.holds(&lease)? && remove_rows(&lease) {
                dead.push(lease);
            }
        }
        let entries: Vec<Entry> = dead.iter().map(Entry::of).collect();
        self.release(&entries, now)?;
        Ok(dead)
    }

    /// Rewrites damaged leases from `drafts`, what the devices show, and releases those without a
    /// device, whose rows the caller removes. The damaged files are kept.
    ///
    /// # Errors
    /// A file cannot be read, moved or written.
    pub fn mend(
        &self,
        damaged: &[Entry],
        drafts: &[Draft],
        now: &BootInstant,
    ) -> Result<(), StoreError> {
        for entry in damaged {
            let path = self.store.path(entry);
            keep_copy(&path, &self.store.dir.join(entry.file_name()))?;
            let draft = drafts.iter().find(|draft| draft.is_of(entry));
            let Some(Draft { lease, number }) = draft else {
                self.release([entry], now)?;
                continue;
            };
            let generations = self.generations()?;
            let generation = match number {
                Some(number) if number.is_valid() && number.index == entry.index => {
                    number.generation
                }
                _ => self.next_generation(&generations, entry.index)?,
            };
            let lease = Lease { index: entry.index, generation, ..lease.clone() };
            self.count_from(&generations, &lease)?;
            self.write(&path, &lease)?;
        }
        Ok(())
    }

    /// Range, cursor and released addresses. A missing or damaged file costs the reuse delays: the
    /// addresses in use are those of the leases.
    fn allocation(&self) -> Result<Allocation, StoreError> {
        let path = self.store.dir.join("allocation.json");
        match fs::read(&path) {
            Ok(bytes) => Ok(Allocation::from_json(&bytes).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Allocation::default()),
            Err(e) => Err(failed("read", &path)(e)),
        }
    }

    fn generations(&self) -> Result<Generations, StoreError> {
        Generations::open(&self.store.dir)
            .map_err(failed("open the generations in", &self.store.dir))
    }

    fn next_generation(&self, generations: &Generations, index: u32) -> Result<u32, StoreError> {
        generations.next(index).map_err(failed("number a lease of", &self.store.dir))
    }

    /// Continues the count of an index after a lease that keeps its number, if it is not beyond it.
    fn count_from(&self, generations: &Generations, lease: &Lease) -> Result<(), StoreError> {
        let counted = generations.pass(lease.index, lease.generation);
        counted.map_err(failed("number a lease of", &self.store.dir))
    }

    fn save_allocation(&self, allocation: &Allocation) -> Result<(), StoreError> {
        self.write(&self.store.dir.join("allocation.json"), allocation)
    }

    /// Replaces a file. Not synced: nothing here is of use after a reboot.
    fn write(&self, path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
        let bytes =
            serde_json::to_vec(value).map_err(|e| failed("encode", path)(io::Error::from(e)))?;
        let temp = self.store.dir.join("new");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temp)
            .map_err(failed("write", &temp))?;
        file.write_all(&bytes).map_err(failed("write", &temp))?;
        fs::rename(&temp, path).map_err(failed("replace", path))
    }
}

/// Moves a damaged file aside; returns its new path.
fn keep_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let kept = free_name(path);
    fs::rename(path, &kept).map_err(failed("move aside", path))?;
    Ok(kept)
}

/// Copies a damaged file to a name like `as_name`, so that its address stays in use meanwhile.
fn keep_copy(path: &Path, as_name: &Path) -> Result<(), StoreError> {
    fs::copy(path, free_name(as_name)).map(drop).map_err(failed("copy", path))
}

fn free_name(path: &Path) -> PathBuf {
    let name = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".corrupt-{n}"));
        PathBuf::from(name)
    };
    (0..).map(name).find(|candidate| !candidate.exists()).unwrap_or_else(|| name(0))
}
