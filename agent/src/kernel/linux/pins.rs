//! Pins of this and of other ABI versions.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sluice_abi::pin;

/// Directory of all ABI versions: `/sys/fs/bpf/sluice`.
pub fn base() -> &'static Path {
    let root = Path::new(pin::ROOT);
    root.parent().unwrap_or(root)
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
    for entry in fs::read_dir(base).map_err(|e| (base.to_owned(), e))? {
        let path = entry.map_err(|e| (base.to_owned(), e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let version = name.strip_prefix('v').is_some_and(|n| n.parse::<u32>().is_ok());
        if path == current || !version {
            continue;
        }
        fs::remove_dir_all(&path).map_err(|e| (path.clone(), e))?;
        removed.push(name);
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
    fn base_is_the_parent_of_the_current_version() {
        assert_eq!(base(), Path::new("/sys/fs/bpf/sluice"));
    }
}
