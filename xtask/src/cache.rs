//! Results that are slow to make, kept in `$SLUICE_CACHE` or `~/.cache/sluice`.
//!
//! The name of an artifact's directory contains a hash of everything the artifact is made from.
//! The directory is made under a temporary name and renamed when it is complete: an interrupted
//! build is never used as a result, and a changed input never selects an old result.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The cache directory.
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the cache and creates its directory if it does not exist.
    ///
    /// # Errors
    /// When neither `SLUICE_CACHE` nor `HOME` is set, or the directory cannot be created.
    pub fn open() -> Result<Self> {
        let root = match std::env::var_os("SLUICE_CACHE") {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?)
                .join(".cache/sluice"),
        };
        fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        Ok(Self { root })
    }

    /// A folder of the cache, created if it does not exist.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    /// The folder of the log files.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Returns the directory of the artifact `name` made from `inputs`. If it does not exist,
    /// `make` fills the empty directory that it is given.
    ///
    /// # Errors
    /// The error of `make`, or an I/O error of the cache.
    pub fn artifact(
        &self,
        name: &str,
        inputs: &Inputs,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let folder = self.folder("artefacts")?;
        let finished = folder.join(format!("{name}-{}", inputs.key()));
        if finished.is_dir() {
            return Ok(finished);
        }
        let unfinished = folder.join(format!("{name}.unfinished-{}", std::process::id()));
        fs::create_dir_all(&unfinished)?;
        let made = make(&unfinished).and_then(|()| {
            // Another xtask may have finished the same artifact in the meantime: the same inputs
            // give the same contents.
            if finished.is_dir() {
                fs::remove_dir_all(&unfinished)?;
                return Ok(());
            }
            fs::rename(&unfinished, &finished)
                .with_context(|| format!("cannot rename to {}", finished.display()))
        });
        if made.is_err() {
            let _ = fs::remove_dir_all(&unfinished);
        }
        made.map(|()| finished)
    }

    /// Removes all versions of the artifact `name` except `kept`.
    ///
    /// # Errors
    /// When a directory cannot be removed.
    pub fn remove_others(&self, name: &str, kept: &Path) -> Result<()> {
        for entry in fs::read_dir(self.folder("artefacts")?)?.flatten() {
            let of_name = entry.file_name().to_string_lossy().starts_with(&format!("{name}-"));
            if of_name && entry.path() != kept {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// The paths of a folder's entries, sorted by name.
///
/// # Errors
/// When the folder cannot be read.
pub fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// A running hash of everything an artifact is made from.
#[derive(Clone, Default)]
pub struct Inputs {
    hash: Sha256,
}

impl Inputs {
    /// Adds a string: a version, a flag, another artifact's key.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.hash.update(text.len().to_be_bytes());
        self.hash.update(text.as_bytes());
        self
    }

    /// Adds the bytes of a file, or the names and bytes of all files below a directory.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn path(mut self, path: &Path) -> Result<Self> {
        if path.is_dir() {
            for entry in sorted_entries(path)? {
                let name = entry.file_name().unwrap_or_default();
                self = self.text(&name.to_string_lossy()).path(&entry)?;
            }
            return Ok(self);
        }
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        self.hash.update(bytes.len().to_be_bytes());
        self.hash.update(&bytes);
        Ok(self)
    }

    /// The first twelve hex digits of the hash.
    pub fn key(&self) -> String {
        self.hash.clone().finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The root directory of the checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, or `target` in the checkout.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => checkout().join(path),
        None => checkout().join("target"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifact_is_made_once_per_set_of_inputs() {
        let root = tempfile::tempdir().expect("a folder");
        let cache = Cache { root: root.path().to_owned() };
        let make = |inputs: &Inputs, text: &str| {
            cache
                .artifact("thing", inputs, |folder| Ok(fs::write(folder.join("file"), text)?))
                .map(|path| fs::read_to_string(path.join("file")).expect("the artifact has a file"))
        };
        let one = Inputs::default().text("one");
        assert_eq!(make(&one, "first").expect("made"), "first");
        assert_eq!(make(&one, "second").expect("found"), "first");
        assert_eq!(make(&Inputs::default().text("two"), "third").expect("made"), "third");

        let failed = cache.artifact("thing", &Inputs::default(), |_| anyhow::bail!("broken"));
        assert!(failed.is_err());
        let left = fs::read_dir(root.path().join("artefacts")).expect("the folder exists").count();
        assert_eq!(left, 2, "a failed build leaves nothing");
    }

    #[test]
    fn moving_text_between_inputs_changes_the_key() {
        let joined = |a: &str, b: &str| Inputs::default().text(a).text(b).key();
        assert_ne!(joined("ab", "c"), joined("a", "bc"));
    }
}
