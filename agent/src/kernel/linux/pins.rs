//! Pins of this and of other ABI versions.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sluice_abi::pin;
use sluice_bpf as bpf;

use super::migration::version_dirs;
use crate::kernel::KernelError;

/// Directories of the pins.
const DIRS: [&str; 2] = [pin::MAPS, pin::PROGRAMS];

/// All pinned maps and programs, held open: a removed pin can be restored while attached programs go
/// on using the same maps.
#[derive(Debug)]
pub struct Pins(Vec<Pin>);

#[derive(Debug)]
struct Pin {
    path: PathBuf,
    object: OwnedFd,
    /// Inode of the pin.
    inode: u64,
}

impl Pins {
    /// Opens everything that is pinned.
    ///
    /// # Errors
    /// A directory cannot be listed, or a pin cannot be opened.
    pub fn open() -> Result<Pins, KernelError> {
        let mut pins = Vec::new();
        for dir in DIRS {
            let fail = |e| KernelError::io(format!("list {dir}"), e);
            for entry in fs::read_dir(dir).map_err(fail)? {
                let path = entry.map_err(fail)?.path();
                if is_temporary(&path) {
                    continue;
                }
                let object = bpf::obj_get(&path)?;
                let inode = inode(&path).unwrap_or_default();
                pins.push(Pin { path, object, inode });
            }
        }
        Ok(Pins(pins))
    }

    /// Restores pins that were removed or replaced; returns their number.
    ///
    /// # Errors
    /// A directory cannot be created, or a pin cannot be written: no bpffs is mounted.
    pub fn restore(&mut self) -> Result<usize, KernelError> {
        let mut restored = 0;
        for pin in &mut self.0 {
            if inode(&pin.path) != Some(pin.inode) {
                pin.restore()?;
                restored += 1;
            }
        }
        Ok(restored)
    }
}

impl Pin {
    fn restore(&mut self) -> Result<(), KernelError> {
        let fail = |path: &Path, e| KernelError::io(format!("pin {}", path.display()), e);
        let dir = self.path.parent().unwrap_or(&self.path);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| fail(dir, e))?;
        // Beside and renamed, so that a reader finds one object or the other. bpffs refuses names
        // with dots.
        let mut name = self.path.file_name().unwrap_or_default().to_os_string();
        name.push("_restored");
        let beside = self.path.with_file_name(name);
        match fs::remove_file(&beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(&beside, e)),
            _ => {}
        }
        bpf::obj_pin(&beside, &self.object)?;
        fs::rename(&beside, &self.path).map_err(|e| fail(&self.path, e))?;
        self.inode = inode(&self.path).unwrap_or_default();
        Ok(())
    }
}

/// Whether a pin was left by a replacement that did not end.
fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with("_new") || name.ends_with("_restored")
}

fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|metadata| metadata.ino())
}

/// Whether maps or programs of any ABI version are pinned.
pub fn exist() -> bool {
    exist_below(base())
}

fn exist_below(base: &Path) -> bool {
    let Ok(versions) = fs::read_dir(base) else { return false };
    versions.flatten().any(|version| {
        fs::read_dir(version.path().join("programs")).is_ok_and(|mut pins| pins.next().is_some())
    })
}

/// Directory of all ABI versions: `/sys/fs/bpf/sluice`.
pub fn base() -> &'static Path {
    let root = Path::new(pin::ROOT);
    root.parent().unwrap_or(root)
}

/// Names of the other versions that have pins.
///
/// # Errors
/// The directory of all versions cannot be listed.
pub fn stale() -> io::Result<Vec<String>> {
    let own = Path::new(pin::ROOT);
    let others = version_dirs(base())?.into_iter().filter(|dir| dir != own);
    Ok(others.map(|dir| dir.file_name().unwrap_or_default().to_string_lossy().into()).collect())
}

/// Removes the pins of other ABI versions, which an older or newer agent left. Programs that are
/// still attached keep running; their maps are freed with them. Returns the names of the versions.
///
/// # Errors
/// A directory cannot be listed or removed.
pub fn remove_stale() -> Result<Vec<String>, (PathBuf, io::Error)> {
    remove_siblings(Path::new(pin::ROOT), base())
}

fn remove_siblings(current: &Path, base: &Path) -> Result<Vec<String>, (PathBuf, io::Error)> {
    let mut removed = Vec::new();
    for path in version_dirs(base).map_err(|e| (base.to_owned(), e))? {
        if path != current {
            fs::remove_dir_all(&path).map_err(|e| (path.clone(), e))?;
            removed.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    removed.sort();
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_other_versions_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["v1/maps", "v2/maps", "v13", "vault", "notes"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let removed = remove_siblings(&dir.path().join("v2"), dir.path()).unwrap();
        assert_eq!(removed, ["v1", "v13"]);
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["notes", "v2", "vault"]);
    }

    #[test]
    fn pins_of_any_version_count() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("sluice");
        assert!(!exist_below(&base));
        fs::create_dir_all(base.join("v2/programs")).unwrap();
        assert!(!exist_below(&base));
        fs::create_dir_all(base.join("v1/programs")).unwrap();
        fs::write(base.join("v1/programs/from_pod"), "").unwrap();
        assert!(exist_below(&base));
    }

    #[test]
    fn base_is_the_parent_of_the_current_version() {
        assert_eq!(base(), Path::new("/sys/fs/bpf/sluice"));
    }
}
