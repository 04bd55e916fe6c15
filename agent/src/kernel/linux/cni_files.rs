//! The CNI binary and the CNI configuration in the directories of the container runtime.
//!
//! A file is written beside its final path and renamed, so that no reader sees part of it, and only
//! if its content differs.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::paths::{CNI_BINARY_NAME, CNI_CONF_NAME, FORMER_CNI_CONF_NAME, STAGED_SUFFIX};

/// A file that cannot be installed or removed.
#[derive(Debug, thiserror::Error)]
#[error("install {path}")]
pub struct InstallError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Writes the configuration if it differs, and removes the one of a former version. Returns whether
/// anything changed.
///
/// # Errors
/// The file cannot be written or renamed.
pub fn write_config(dir: &Path, text: &str) -> Result<bool, InstallError> {
    let path = dir.join(CNI_CONF_NAME);
    let differs = !fs::read(&path).is_ok_and(|old| old == text.as_bytes());
    if differs {
        replace(&path, 0o644, |file| file.write_all(text.as_bytes()))?;
    }
    // Last: without any configuration the node would not be Ready.
    Ok(remove(&dir.join(FORMER_CNI_CONF_NAME))? || differs)
}

/// Names of the configurations in `dir` that precede [`CNI_CONF_NAME`] in alphabetical order.
pub fn preceding_configs(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| {
            [".conf", ".conflist", ".json"].iter().any(|s| n.ends_with(s))
                && n.as_str() < CNI_CONF_NAME
        })
        .collect();
    names.sort();
    names
}

/// Installs the CNI binary. It keeps the identities of the files that it compared, because it is called in
/// each pass while the agent waits.
#[derive(Debug, Default)]
pub struct Installer {
    /// Identities of both files after the last comparison or installation.
    compared: Option<(Identity, Identity)>,
}

/// Device, inode, length and time of the last change of a file. A write changes the time.
type Identity = (u64, u64, u64, i64, i64);

impl Installer {
    /// Installs the CNI binary if the installed one differs from `from`. Returns whether it did.
    ///
    /// # Errors
    /// `from` cannot be read, or the file cannot be written or renamed.
    pub fn install(&mut self, from: &Path, dir: &Path) -> Result<bool, InstallError> {
        let identities = || Some((identity(from)?, identity(&dir.join(CNI_BINARY_NAME))?));
        if self.compared.is_some() && self.compared == identities() {
            return Ok(false);
        }
        let staged = stage_binary(from, dir)?;
        let installed = staged.is_some();
        staged.map_or(Ok(()), Staged::install)?;
        self.compared = identities();
        Ok(installed)
    }
}

/// A file that is complete and on disk, beside the path that it is for. It is removed when this value
/// is dropped without [`Staged::install`].
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
}

impl Staged {
    /// Renames the file to its path.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn install(self) -> Result<(), InstallError> {
        fs::rename(beside(&self.path), &self.path)
            .map_err(|source| InstallError { path: self.path.clone(), source })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_file(beside(&self.path));
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let m = fs::metadata(path).ok()?;
    Some((m.dev(), m.ino(), m.len(), m.ctime(), m.ctime_nsec()))
}

/// Removes the configuration of an agent that ran before the node started: without pins, pods
/// cannot be created, and the node must not be Ready. Returns whether it existed.
///
/// # Errors
/// The file cannot be removed.
pub fn withdraw_config(dir: &Path) -> Result<bool, InstallError> {
    Ok(remove(&dir.join(CNI_CONF_NAME))? | remove(&dir.join(FORMER_CNI_CONF_NAME))?)
}

/// Writes the CNI binary beside the installed one, unless that equals `from`.
///
/// # Errors
/// `from` cannot be read, or the file cannot be written.
pub fn stage_binary(from: &Path, dir: &Path) -> Result<Option<Staged>, InstallError> {
    let path = dir.join(CNI_BINARY_NAME);
    if same_content(from, &path) {
        return Ok(None);
    }
    let fail = |source| InstallError { path: from.to_owned(), source };
    let mut source = File::open(from).map_err(fail)?;
    stage(&path, 0o755, |file| io::copy(&mut source, file).map(|_| ())).map(Some)
}

/// Removes a file that this module wrote. Returns whether it existed.
///
/// # Errors
/// The file cannot be removed.
pub fn remove(path: &Path) -> Result<bool, InstallError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(InstallError { path: path.to_owned(), source }),
    }
}

/// Where a file is written before it is renamed: in the same directory, as runtimes do not notice a
/// file that is moved in from another one, with a suffix that no runtime reads.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(STAGED_SUFFIX);
    path.with_file_name(name)
}

fn replace(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), InstallError> {
    stage(path, mode, write)?.install()
}

fn stage(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<Staged, InstallError> {
    let staged = Staged { path: path.to_owned() };
    let written = (|| {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(mode);
        let mut file = options.open(beside(path))?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        write(&mut file)?;
        // It is closed on return: a binary that is open for writing cannot be executed (ETXTBSY).
        file.sync_all()
    })();
    match written {
        Ok(()) => Ok(staged),
        Err(source) => Err(InstallError { path: path.to_owned(), source }),
    }
}

fn same_content(a: &Path, b: &Path) -> bool {
    let (Ok(mut a), Ok(mut b)) = (File::open(a), File::open(b)) else { return false };
    let length = |f: &File| f.metadata().map(|m| m.len()).ok();
    if length(&a) != length(&b) {
        return false;
    }
    let (mut x, mut y) = ([0u8; 8192], [0u8; 8192]);
    loop {
        let Ok(n) = a.read(&mut x) else { return false };
        if n == 0 {
            return true;
        }
        if b.read_exact(&mut y[..n]).is_err() || x[..n] != y[..n] {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_is_written_if_it_differs_and_no_other_file_is_left() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write_config(dir.path(), "a").unwrap());
        assert!(!write_config(dir.path(), "a").unwrap());
        assert!(write_config(dir.path(), "b").unwrap());
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert_eq!(names.len(), 1);
        assert_eq!(fs::read_to_string(dir.path().join(CNI_CONF_NAME)).unwrap(), "b");
    }

    #[test]
    fn config_of_a_former_version_is_replaced_and_both_are_withdrawn() {
        let dir = tempfile::tempdir().unwrap();
        let former = dir.path().join(FORMER_CNI_CONF_NAME);
        fs::write(&former, "a").unwrap();
        assert!(write_config(dir.path(), "a").unwrap());
        assert!(!former.exists() && !write_config(dir.path(), "a").unwrap());
        // A former agent ran again.
        fs::write(&former, "a").unwrap();
        assert!(write_config(dir.path(), "a").unwrap());
        fs::write(&former, "a").unwrap();
        assert!(withdraw_config(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(!withdraw_config(dir.path()).unwrap());
    }

    #[test]
    fn configs_that_precede_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["05-other.conf", "00-x.conflist", "10-kindnet.conflist", "00-readme"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(preceding_configs(dir.path()), ["00-x.conflist", "05-other.conf"]);
    }

    #[test]
    fn unchanged_binaries_are_compared_once() {
        let dir = tempfile::tempdir().unwrap();
        let (from, bin) = (dir.path().join("sluice-cni"), dir.path().join("bin"));
        fs::write(&from, "new").unwrap();
        let mut installer = Installer::default();
        assert!(installer.install(&from, &bin).unwrap());
        assert!(!installer.install(&from, &bin).unwrap());
        // Both files change without a comparison: the remembered identities decide.
        let compared = installer.compared;
        fs::write(bin.join(CNI_BINARY_NAME), "bad").unwrap();
        installer.compared = identity(&from).zip(identity(&bin.join(CNI_BINARY_NAME)));
        assert!(!installer.install(&from, &bin).unwrap(), "compared although nothing changed");
        installer.compared = compared;
        assert!(installer.install(&from, &bin).unwrap(), "a write must be noticed");
        fs::remove_file(bin.join(CNI_BINARY_NAME)).unwrap();
        assert!(installer.install(&from, &bin).unwrap());
    }

    #[test]
    fn binary_is_executable_and_replaced_if_it_differs() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("sluice-cni");
        fs::write(&from, vec![7u8; 20_000]).unwrap();
        let bin = dir.path().join("bin");
        let install = || Installer::default().install(&from, &bin);
        assert!(install().unwrap());
        assert!(!install().unwrap());
        let mode = fs::metadata(bin.join(CNI_BINARY_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        fs::write(&from, vec![8u8; 20_000]).unwrap();
        assert!(install().unwrap());
        fs::remove_file(&from).unwrap();
        let e = install().unwrap_err();
        assert!(e.to_string().contains("sluice-cni"));
    }

    #[test]
    fn staged_binary_is_installed_on_request_only_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let (from, bin) = (dir.path().join("sluice-cni"), dir.path().join("bin"));
        let installed = bin.join(CNI_BINARY_NAME);
        fs::write(&from, "new").unwrap();
        let staged = stage_binary(&from, &bin).unwrap().unwrap();
        assert!(!installed.exists() && beside(&installed).exists());
        drop(staged);
        assert!(!beside(&installed).exists());
        stage_binary(&from, &bin).unwrap().unwrap().install().unwrap();
        assert!(installed.exists() && !beside(&installed).exists());
        assert!(stage_binary(&from, &bin).unwrap().is_none(), "nothing differs");
    }
}
