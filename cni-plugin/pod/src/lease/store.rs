//! The lease file: JSON under a lock, replaced as a whole.
//!
//! A reader sees the content before a change or after it, also when the writer or the machine fails
//! in between. A file that cannot be parsed is moved aside, never overwritten, and the state is
//! rebuilt from the kernel's devices.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{BootInstant, Lease, State};

/// A failed access to the lease file.
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

/// A lease file that could not be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its new path.
    pub moved_to: PathBuf,
    /// The parser's error.
    pub cause: String,
    /// Number of rebuilt leases.
    pub rebuilt: usize,
}

/// Result of [`LockedStore::load`].
#[derive(Debug)]
pub struct Loaded {
    /// The state, read or rebuilt.
    pub state: State,
    /// Set if the file could not be parsed.
    pub damage: Option<Damage>,
}

/// The folder of the lease file.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// A store in `dir`; does not access the folder.
    pub fn new(dir: impl Into<PathBuf>) -> Store {
        Store { dir: dir.into() }
    }

    fn file(&self) -> PathBuf {
        self.dir.join("leases.json")
    }

    /// Reads the state without a lock. Without a file, the state is empty.
    ///
    /// # Errors
    /// The file cannot be read, or cannot be parsed (`InvalidData`).
    pub fn read(&self) -> Result<State, StoreError> {
        let path = self.file();
        match fs::read(&path) {
            Ok(bytes) => State::from_json(&bytes).map_err(|e| StoreError {
                operation: "parse",
                path,
                source: e.into(),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(State::default()),
            Err(source) => Err(StoreError { operation: "read", path, source }),
        }
    }

    /// Releases every lease that is not live; returns them.
    ///
    /// # Errors
    /// The store cannot be locked, read or written.
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

    /// Waits for the lock; it ends with the process that holds it. Creates the folder if it does not
    /// exist.
    ///
    /// # Errors
    /// The folder or the lock file cannot be created or locked.
    pub fn lock(&self) -> Result<LockedStore<'_>, StoreError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(|source| {
            StoreError { operation: "create folder", path: self.dir.clone(), source }
        })?;
        let path = self.dir.join("lock");
        let fail = |source| StoreError { operation: "lock", path: path.clone(), source };
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

/// A store that no other process changes while this value exists.
#[derive(Debug)]
pub struct LockedStore<'a> {
    store: &'a Store,
    _lock: File,
}

impl LockedStore<'_> {
    /// Reads the state. If there is no file, or it cannot be parsed, the leases come from `rebuild`.
    ///
    /// # Errors
    /// The file cannot be read or moved aside. A file that cannot be parsed is not an error.
    pub fn load(&self, rebuild: impl FnOnce() -> Vec<Lease>) -> Result<Loaded, StoreError> {
        let path = self.store.file();
        let cause = match fs::read(&path) {
            Ok(bytes) => match State::from_json(&bytes) {
                Ok(state) => return Ok(Loaded { state, damage: None }),
                Err(e) => Some(e.to_string()),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(StoreError { operation: "read", path, source }),
        };
        let state = State { leases: rebuild(), ..State::default() };
        let Some(cause) = cause else { return Ok(Loaded { state, damage: None }) };
        let moved_to = (0..)
            .map(|n: u32| self.store.dir.join(format!("leases.json.corrupt-{n}")))
            .find(|candidate| !candidate.exists())
            .unwrap_or_else(|| self.store.dir.join("leases.json.corrupt"));
        fs::rename(&path, &moved_to).map_err(|source| StoreError {
            operation: "move aside",
            path,
            source,
        })?;
        let damage = Damage { moved_to, cause, rebuilt: state.leases.len() };
        Ok(Loaded { state, damage: Some(damage) })
    }

    /// Replaces the state: writes a new file, syncs it, renames it and syncs the folder.
    ///
    /// # Errors
    /// A step fails; the former state then still exists.
    pub fn save(&self, state: &State) -> Result<(), StoreError> {
        let path = self.store.file();
        let temp = self.store.dir.join("leases.json.new");
        let fail = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError { operation, path, source }
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
    fn a_damaged_file_is_kept_and_the_leases_rebuilt() {
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
    fn an_incomplete_new_file_is_ignored() {
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
