//! Where slow results live: `$SLUICE_CACHE` or `~/.cache/sluice`, outside the checkout.
//!
//! An artefact's directory is named after a hash of everything it was made from, and made
//! under another name first: a directory that exists is whole, a changed input is another
//! directory, and a build that was cut short leaves nothing that looks finished.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// The cache directory and the rooms in it.
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the cache, making it where there is none.
    ///
    /// # Errors
    /// When neither `SLUICE_CACHE` nor `HOME` says where, or it cannot be made.
    pub fn open() -> Result<Self> {
        let root = match std::env::var_os("SLUICE_CACHE") {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?)
                .join(".cache/sluice"),
        };
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        Ok(Self { root })
    }

    /// A room of the cache, made where there is none.
    pub fn room(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Where programs that run for long write what they say.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The artefact called `name` made from `inputs`: found, or made by `make` in the empty
    /// directory it is given.
    pub fn artefact(
        &self,
        name: &str,
        inputs: &Inputs,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let rooms = self.room("artefacts")?;
        let finished = rooms.join(format!("{name}-{}", inputs.key()));
        if finished.is_dir() {
            return Ok(finished);
        }
        let unfinished = rooms.join(format!("{name}.unfinished-{}", std::process::id()));
        fs::create_dir_all(&unfinished)?;
        let made = make(&unfinished);
        if made.is_ok() {
            fs::rename(&unfinished, &finished)
                .with_context(|| format!("cannot name {}", finished.display()))?;
        } else {
            let _ = fs::remove_dir_all(&unfinished);
        }
        made.map(|()| finished)
    }

    /// Removes what the artefact called `name` was before `kept`.
    pub fn forget_others(&self, name: &str, kept: &Path) -> Result<()> {
        for entry in fs::read_dir(self.room("artefacts")?)?.flatten() {
            let of_name = entry.file_name().to_string_lossy().starts_with(&format!("{name}-"));
            if of_name && entry.path() != kept {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// What an artefact is made from, as a running hash.
#[derive(Clone, Default)]
pub struct Inputs {
    hash: Sha256,
}

impl Inputs {
    /// Adds a word: a version, a flag, another artefact's key.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.hash.update(text.len().to_be_bytes());
        self.hash.update(text.as_bytes());
        self
    }

    /// Adds a file's bytes, or every file below a directory with its name.
    pub fn path(mut self, path: &Path) -> Result<Self> {
        if path.is_dir() {
            let mut entries: Vec<_> = fs::read_dir(path)?.collect::<std::io::Result<Vec<_>>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                self = self.text(&entry.file_name().to_string_lossy()).path(&entry.path())?;
            }
            return Ok(self);
        }
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        self.hash.update(bytes.len().to_be_bytes());
        self.hash.update(&bytes);
        Ok(self)
    }

    /// Twelve hex digits that stand for all inputs.
    pub fn key(&self) -> String {
        self.hash.clone().finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The checkout's root directory.
pub fn checkout() -> PathBuf {
    // xtask stands one level below it.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, or `target` in the checkout.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => checkout().join(path),
        None => checkout().join("target"),
    }
}
