//! The folder of the leases.
//!
//! Readers list and read without a lock. Writers hold it; each file is replaced by a rename, so a
//! reader sees the content before a change or after it, also when the writer fails in between. A
//! file that cannot be parsed concerns one lease: it keeps its address and index by its name, and is
//! rebuilt from the device of its pod.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::boot_instant::uptime;
use super::lock::{self, Wait};
use super::{Entry, HeldLock, InUse, Lease, LeaseKey, LockedStore};
use crate::{DEFAULT_STATE_DIR, FORMER_STATE_DIR, identity};

/// Time for which a call waits for the lock. Container runtimes end a call later, without a reason.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// Time for which a process waits for the lock that has other work: the agent's event loop. Calls hold the
/// lock for milliseconds.
const BRIEF_PATIENCE: Duration = Duration::from_secs(1);

/// A failed access to the leases.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct StoreError {
    /// The operation: "write", "lock", ...
    pub operation: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// All leases of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    /// Those whose file could be parsed, by address.
    pub leases: Vec<Lease>,
    /// Those whose file could not be parsed.
    pub damaged: Vec<Entry>,
}

/// A state of a file or folder: inode, modification time in seconds and nanoseconds, size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64, i64, i64, u64);

/// Leases that were read before, with the state of their files.
#[derive(Debug, Default)]
pub struct KnownLeases(BTreeMap<Entry, (Stamp, Lease)>);

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp(metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len())
    }
}

/// Excludes other calls for one attachment.
#[derive(Debug)]
pub struct AttachmentLock {
    _file: File,
}

/// The folder of the leases.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) dir: PathBuf,
    /// Files that a former version may have left.
    pub(super) former: Vec<PathBuf>,
}

impl Store {
    /// A store in `dir`; does not access the folder. The default folder of former versions means
    /// today's: a CNI configuration that a former version wrote names it.
    pub fn new(dir: impl Into<PathBuf>) -> Store {
        let mut dir = dir.into();
        if dir == Path::new(FORMER_STATE_DIR) {
            dir = DEFAULT_STATE_DIR.into();
        }
        let mut former = vec![dir.join("leases.json")];
        if dir == Path::new(DEFAULT_STATE_DIR) {
            former.push(Path::new(FORMER_STATE_DIR).join("leases.json"));
        }
        Store { dir, former }
    }

    /// The folder, in which ADD and DEL each replace a file.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether [`LockedStore::open`] has nothing to do.
    pub fn is_open(&self) -> bool {
        self.leases_dir().exists() && !self.has_former()
    }

    /// The folder with one file per lease.
    pub fn leases_dir(&self) -> PathBuf {
        self.dir.join("leases")
    }

    /// What changes with the set of leases: modification time and size of their folder. A comparison
    /// costs one system call; a change within the resolution of the file system's clock that leaves
    /// the number of leases equal is not visible. `None` without the folder.
    pub fn stamp(&self) -> Option<Stamp> {
        fs::metadata(self.leases_dir()).ok().map(|metadata| Stamp::of(&metadata))
    }

    /// Whether a former version left leases, which [`LockedStore::open`] migrates.
    pub fn has_former(&self) -> bool {
        self.former.iter().any(|path| path.exists())
    }

    /// Lists the leases by their file names, in the order of their addresses; without the folder,
    /// there are none.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::new();
        self.list(|name| {
            entries.extend(Entry::parse(name));
            ControlFlow::Continue(())
        })?;
        entries.sort_unstable_by_key(|entry| u32::from(entry.address));
        Ok(entries)
    }

    /// What is in use, and the entry of the attachment whose host's end has the name `own`.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn in_use(&self, own: &str) -> Result<InUse, StoreError> {
        let mut in_use = InUse::default();
        self.list(|name| {
            in_use.add_name(name, own);
            ControlFlow::Continue(())
        })?;
        Ok(in_use.complete())
    }

    /// Calls `each` with the names of the files, until it breaks.
    fn list(&self, mut each: impl FnMut(&str) -> ControlFlow<()>) -> Result<(), StoreError> {
        let path = self.leases_dir();
        let dir = match fs::read_dir(&path) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed("list", &path)(e)),
        };
        for file in dir {
            let name = match file {
                Ok(file) => file.file_name(),
                Err(e) => return Err(failed("list", &path)(e)),
            };
            if name.to_str().is_some_and(|name| each(name).is_break()) {
                break;
            }
        }
        Ok(())
    }

    /// Like [`Store::read`], but reads only files that differ from those of the last call.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    pub fn read_changed(&self, known: &mut KnownLeases) -> Result<Leases, StoreError> {
        let (mut all, mut before) = (Leases::default(), std::mem::take(&mut known.0));
        for entry in self.entries()? {
            let Ok(metadata) = fs::symlink_metadata(self.path(&entry)) else { continue };
            let stamp = Stamp::of(&metadata);
            let lease = match before.remove(&entry) {
                Some((same, lease)) if same == stamp => lease,
                _ => match self.get(&entry)? {
                    Some(Some(lease)) => lease,
                    Some(None) => {
                        all.damaged.push(entry);
                        continue;
                    }
                    None => continue,
                },
            };
            all.leases.push(lease.clone());
            known.0.insert(entry, (stamp, lease));
        }
        Ok(all)
    }

    /// Reads all leases without a lock.
    ///
    /// # Errors
    /// The folder cannot be listed, or a file cannot be read. A file that cannot be parsed is not an
    /// error, and a file that was deleted meanwhile is omitted.
    pub fn read(&self) -> Result<Leases, StoreError> {
        let mut all = Leases::default();
        for entry in self.entries()? {
            match self.get(&entry)? {
                Some(Some(lease)) => all.leases.push(lease),
                Some(None) => all.damaged.push(entry),
                None => {}
            }
        }
        Ok(all)
    }

    /// The lease of an attachment, without a lock.
    ///
    /// # Errors
    /// The file cannot be read, or cannot be parsed (`InvalidData`).
    pub fn find(&self, key: &LeaseKey) -> Result<Option<Lease>, StoreError> {
        let Some(entry) = self.find_entry(key)? else { return Ok(None) };
        match self.get(&entry)? {
            Some(None) => {
                let source = io::ErrorKind::InvalidData.into();
                Err(failed("parse", &self.path(&entry))(source))
            }
            found => Ok(found.flatten()),
        }
    }

    /// The entry of an attachment. It exists also if the file is damaged.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn find_entry(&self, key: &LeaseKey) -> Result<Option<Entry>, StoreError> {
        let host_ifname = identity::host_ifname(key);
        let mut found = None;
        self.list(|name| {
            if name.ends_with(&host_ifname) {
                found = Entry::parse(name).filter(|entry| entry.host_ifname == host_ifname);
            }
            if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(found)
    }

    /// The lease of an entry, without a lock; `None` if it is damaged, cannot be read or does not exist.
    pub fn lease_of(&self, entry: &Entry) -> Option<Lease> {
        self.get(entry).ok().flatten().flatten()
    }

    /// Whether this lease still exists as it is.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn holds(&self, lease: &Lease) -> Result<bool, StoreError> {
        Ok(self.get(&Entry::of(lease))?.flatten().as_ref() == Some(lease))
    }

    /// Reads one lease: `None` without the file, `Some(None)` if it is damaged.
    fn get(&self, entry: &Entry) -> Result<Option<Option<Lease>>, StoreError> {
        let path = self.path(entry);
        match fs::read(&path) {
            // A copy under another name is not a lease: two pods would have one address.
            Ok(bytes) => {
                let lease = Lease::from_json(&bytes).ok();
                Ok(Some(lease.filter(|l| is_consistent(l) && Entry::of(l) == *entry)))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("read", &path)(e)),
        }
    }

    pub(super) fn path(&self, entry: &Entry) -> PathBuf {
        self.leases_dir().join(entry.file_name())
    }

    /// Waits for other calls for the same attachment, and excludes them while the returned value
    /// exists. Taken before [`Store::lock`].
    ///
    /// # Errors
    /// The lock file cannot be created, or another call runs for too long.
    pub fn lock_attachment(&self, key: &LeaseKey) -> Result<AttachmentLock, StoreError> {
        create_dir(&self.dir)?;
        let path = self.dir.join("attachments");
        let byte = identity::attachment_number(key);
        let file = lock::lock_byte(&path, byte, LOCK_PATIENCE).map_err(failed("lock", &path))?;
        Ok(AttachmentLock { _file: file })
    }

    /// Waits for the lock, which ends with the process that holds it. `holder` describes the caller
    /// to others that wait. Creates the folder if it does not exist. A time that was read before is too
    /// early for what is done under the lock, by up to 30 seconds.
    ///
    /// # Errors
    /// The lock file cannot be created, or is locked for longer than a call can wait: the error
    /// names the holder.
    pub fn lock(&self, holder: &str) -> Result<LockedStore<'_>, StoreError> {
        self.lock_within(holder, LOCK_PATIENCE, lock::wait)
    }

    /// Like [`Store::lock`], for a process that must not wait for long: a second at most.
    ///
    /// # Errors
    /// Those of [`Store::lock`].
    pub fn lock_briefly(&self, holder: &str) -> Result<LockedStore<'_>, StoreError> {
        self.lock_within(holder, BRIEF_PATIENCE, lock::poll)
    }

    /// Locks the store if this lease exists as it is. Rows that lead to its pod are written under such a
    /// lock: they cannot be those of another pod that has the address by then, and cannot stay when the
    /// lease ends, because whoever ends it removes them.
    ///
    /// # Errors
    /// Those of [`Store::lock`]; the lease cannot be read.
    pub fn lock_lease(&self, lease: &Lease, holder: &str) -> Result<Option<HeldLock>, StoreError> {
        self.lock(holder)?.if_holds(lease)
    }

    /// Like [`Store::lock_lease`], for a process that must not wait for long.
    ///
    /// # Errors
    /// Those of [`Store::lock_lease`].
    pub fn lock_lease_briefly(
        &self,
        lease: &Lease,
        holder: &str,
    ) -> Result<Option<HeldLock>, StoreError> {
        self.lock_briefly(holder)?.if_holds(lease)
    }

    fn lock_within(
        &self,
        holder: &str,
        patience: Duration,
        wait: Wait,
    ) -> Result<LockedStore<'_>, StoreError> {
        create_dir(&self.dir)?;
        let path = self.dir.join("lock");
        let file =
            lock::lock(&path, holder, uptime, patience, wait).map_err(failed("lock", &path))?;
        Ok(LockedStore::new(self, file))
    }
}

/// Whether the parts of a lease agree.
fn is_consistent(lease: &Lease) -> bool {
    lease.generation != 0 && identity::host_ifname(&lease.key) == lease.host_ifname
}

pub(super) fn create_dir(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("create folder", path))
}

pub(super) fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError { operation, path, source }
}
