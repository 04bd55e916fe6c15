//! The state on disk: one JSON file under a lock, replaced whole.
//!
//! A reader sees the file before a change or after it, whenever the writer or the machine died.
//! A file that is not ours to read any more (a bad disk, somebody's editor) is moved aside, never
//! overwritten, and the state is rebuilt from what the kernel has.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{BootInstant, State};

/// What one attachment is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseKey {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// An address in use, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The attachment.
    #[serde(flatten)]
    pub key: LeaseKey,
    /// Name of the CNI network.
    pub network: String,
    /// `K8S_POD_NAMESPACE`, if the runtime gave one.
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`, if the runtime gave one.
    pub pod_name: Option<String>,
    /// Path of the pod's network namespace; empty if it is not known (rebuilt state).
    pub netns: String,
    /// Name of the host's end of the veth pair.
    pub host_ifname: String,
    /// When the address was taken.
    pub since: BootInstant,
}

impl Lease {
    /// `namespace/name` of the pod, or the container id where no pod is known.
    pub fn owner(&self) -> String {
        match (&self.pod_namespace, &self.pod_name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => format!("container {}", self.key.container_id),
        }
    }
}

/// A failed access to the state.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}", path.display())]
pub struct StoreError {
    /// "write", "lock", ...
    pub doing: &'static str,
    /// Which file.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// A state file that could not be read as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it was moved to.
    pub moved_to: PathBuf,
    /// What was wrong with it.
    pub cause: String,
    /// Leases that were found by other means.
    pub rebuilt: usize,
}

/// The outcome of [`LockedStore::load`].
#[derive(Debug)]
pub struct Loaded {
    /// The state, rebuilt if it had to be.
    pub state: State,
    /// Set if the file was unreadable.
    pub damage: Option<Damage>,
}

/// The folder that holds the state.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Where the state lives unless the configuration says otherwise.
    pub const DEFAULT_DIR: &str = "/var/lib/sluice/cni";

    /// A store in `dir`; nothing is touched yet.
    pub fn new(dir: impl Into<PathBuf>) -> Store {
        Store { dir: dir.into() }
    }

    fn file(&self) -> PathBuf {
        self.dir.join("leases.json")
    }

    /// The state as it is now, without a lock: for those who only look.
    ///
    /// # Errors
    /// If the file is there but cannot be read as a state.
    pub fn read(&self) -> Result<State, StoreError> {
        let path = self.file();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| StoreError {
                doing: "understand",
                path,
                source: e.into(),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(State::default()),
            Err(source) => Err(StoreError { doing: "read", path, source }),
        }
    }

    /// Releases every lease that `live` rejects, and returns them.
    ///
    /// # Errors
    /// If the store cannot be locked, read or written.
    pub fn reclaim(
        &self,
        now: &BootInstant,
        live: impl Fn(&Lease) -> bool,
    ) -> Result<Vec<Lease>, StoreError> {
        let locked = self.lock()?;
        let mut state = self.read()?;
        let released = state.reclaim(now, live);
        if !released.is_empty() {
            locked.save(&state)?;
        }
        Ok(released)
    }

    /// Waits for the lock, which dies with the process that holds it. Makes the folder.
    ///
    /// # Errors
    /// If folder or lock file cannot be made.
    pub fn lock(&self) -> Result<LockedStore<'_>, StoreError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(|source| {
            StoreError { doing: "make folder", path: self.dir.clone(), source }
        })?;
        let path = self.dir.join("lock");
        let fail = |source| StoreError { doing: "lock", path: path.clone(), source };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        file.lock().map_err(fail)?;
        Ok(LockedStore { store: self, _lock: file })
    }
}

/// A store that nobody else changes while this value lives.
#[derive(Debug)]
pub struct LockedStore<'a> {
    store: &'a Store,
    _lock: File,
}

impl LockedStore<'_> {
    /// Reads the state. If there is no readable file, `rebuild` is asked which leases there are.
    ///
    /// # Errors
    /// If the disk fails; an unreadable file is no error.
    pub fn load(&self, rebuild: impl FnOnce() -> Vec<Lease>) -> Result<Loaded, StoreError> {
        let path = self.store.file();
        let cause = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<State>(&bytes) {
                Ok(state) => return Ok(Loaded { state, damage: None }),
                Err(e) => Some(e.to_string()),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(StoreError { doing: "read", path, source }),
        };
        let state = State { leases: rebuild(), ..State::default() };
        let Some(cause) = cause else { return Ok(Loaded { state, damage: None }) };
        let moved_to = (0..)
            .map(|n: u32| self.store.dir.join(format!("leases.json.corrupt-{n}")))
            .find(|candidate| !candidate.exists())
            .unwrap_or_else(|| self.store.dir.join("leases.json.corrupt"));
        fs::rename(&path, &moved_to).map_err(|source| StoreError {
            doing: "move aside",
            path,
            source,
        })?;
        let damage = Damage { moved_to, cause, rebuilt: state.leases.len() };
        Ok(Loaded { state, damage: Some(damage) })
    }

    /// Replaces the state: written, synced, renamed, and the rename synced.
    ///
    /// # Errors
    /// If the disk fails; the state before is then still there.
    pub fn save(&self, state: &State) -> Result<(), StoreError> {
        let path = self.store.file();
        let temp = self.store.dir.join("leases.json.new");
        let fail = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError { doing, path, source }
        };
        let bytes =
            serde_json::to_vec(state).map_err(|e| fail("encode", &path)(io::Error::from(e)))?;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temp)
            .map_err(fail("write", &temp))?;
        file.write_all(&bytes).map_err(fail("write", &temp))?;
        file.sync_data().map_err(fail("sync", &temp))?;
        fs::rename(&temp, &path).map_err(fail("replace", &path))?;
        File::open(&self.store.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(fail("sync folder", &self.store.dir))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_damaged_file_is_kept_and_the_state_rebuilt() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        for n in 0..2 {
            fs::write(dir.path().join("leases.json"), "{\"leases\": [").unwrap();
            let locked = store.lock().unwrap();
            let loaded = locked.load(Vec::new).unwrap();
            let damage = loaded.damage.unwrap();
            assert!(damage.moved_to.ends_with(format!("leases.json.corrupt-{n}")));
            assert_eq!(fs::read_to_string(damage.moved_to).unwrap(), "{\"leases\": [");
            locked.save(&loaded.state).unwrap();
            assert_eq!(store.read().unwrap(), State::default());
        }
    }

    #[test]
    fn a_half_written_successor_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let locked = store.lock().unwrap();
        let state = State { subnet: Some("10.0.0.0/24".parse().unwrap()), ..State::default() };
        locked.save(&state).unwrap();
        fs::write(dir.path().join("leases.json.new"), "{").unwrap();
        assert_eq!(locked.load(Vec::new).unwrap().state, state);
        locked.save(&state).unwrap();
    }
}
