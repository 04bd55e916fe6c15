//! The two files that make kubelet's container runtime use Sluice: the CNI binary and the CNI
//! configuration.
//!
//! Both are written beside their place and renamed into it, so that nobody ever reads half a
//! file, and only when their content differs. The configuration is what makes a node Ready, so
//! the event loop asks for it only once the dataplane works.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::json;

/// Name of the configuration; the runtime takes the first in alphabetical order.
pub const CONF_NAME: &str = "10-sluice.conflist";
/// Name of the installed binary, equal to `"type"` in the configuration.
pub const BINARY_NAME: &str = "sluice";
/// Version of the configuration: what every runtime that Kubernetes still supports reads. Nothing
/// of 1.1.0 is needed, and with it containerd would take a failing STATUS for a node without
/// network.
const CNI_VERSION: &str = "1.0.0";

/// A file cannot be put into place.
#[derive(Debug, thiserror::Error)]
#[error("install {path}")]
pub struct InstallError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The configuration for a node with these pods.
pub fn conf(subnet: &IpNet, mtu: u32, state_dir: &Path) -> String {
    let conf = json!({
        "cniVersion": CNI_VERSION,
        "name": "sluice",
        "plugins": [{
            "type": BINARY_NAME,
            "subnet": subnet.to_string(),
            "mtu": mtu,
            "stateDir": state_dir,
            // The bandwidth plugin, where somebody chains it, needs the ingress qdisc for itself:
            // with the rates told, the CNI binary leaves it free.
            "capabilities": { "bandwidth": true },
        }],
    });
    format!("{conf:#}\n")
}

/// Writes the configuration if it differs; tells whether it did.
///
/// # Errors
/// Names the file.
pub fn write_conf(dir: &Path, text: &str) -> Result<bool, InstallError> {
    let path = dir.join(CONF_NAME);
    if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(false);
    }
    replace(&path, 0o644, |file| file.write_all(text.as_bytes()))?;
    Ok(true)
}

/// Configurations in `dir` that the runtime prefers to ours.
pub fn preferred_to_ours(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| {
            [".conf", ".conflist", ".json"].iter().any(|s| n.ends_with(s)) && n.as_str() < CONF_NAME
        })
        .collect();
    names.sort();
    names
}

/// Installs the CNI binary if it differs from `from`; tells whether it did.
///
/// # Errors
/// Names the file.
pub fn install_binary(from: &Path, dir: &Path) -> Result<bool, InstallError> {
    let path = dir.join(BINARY_NAME);
    if same_content(from, &path) {
        return Ok(false);
    }
    let fail = |source| InstallError { path: from.to_owned(), source };
    let mut source = File::open(from).map_err(fail)?;
    replace(&path, 0o755, |file| io::copy(&mut source, file).map(|_| ()))?;
    Ok(true)
}

/// Removes what this module writes.
///
/// # Errors
/// Names the file.
pub fn remove(path: &Path) -> Result<bool, InstallError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(InstallError { path: path.to_owned(), source }),
    }
}

fn replace(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), InstallError> {
    // A name that no container runtime takes for a configuration, in the same folder because
    // runtimes do not notice what is moved in from elsewhere.
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".sluice-new");
    let beside = path.with_file_name(name);
    let written = (|| {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        write(&mut file)?;
        file.sync_all()?;
        // A binary that is open for writing cannot be run.
        drop(file);
        fs::rename(&beside, path)
    })();
    written.map_err(|source| {
        let _ = fs::remove_file(&beside);
        InstallError { path: path.to_owned(), source }
    })
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
    fn conf_is_a_list_with_the_nodes_range() {
        let subnet = "10.244.1.0/24".parse().unwrap();
        let text = conf(&subnet, 1400, Path::new("/var/lib/sluice/cni"));
        let v: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(v["plugins"][0]["subnet"], "10.244.1.0/24");
        assert_eq!(v["plugins"][0]["mtu"], 1400);
        assert_eq!(v["plugins"][0]["type"], "sluice");
        assert_eq!(v["cniVersion"], "1.0.0");
    }

    #[test]
    fn written_once_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write_conf(dir.path(), "a").unwrap());
        assert!(!write_conf(dir.path(), "a").unwrap());
        assert!(write_conf(dir.path(), "b").unwrap());
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert_eq!(names.len(), 1);
        assert_eq!(fs::read_to_string(dir.path().join(CONF_NAME)).unwrap(), "b");
    }

    #[test]
    fn a_conf_that_the_runtime_prefers_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["05-other.conf", "10-kindnet.conflist", "99-x.conflist", "00-readme"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(preferred_to_ours(dir.path()), ["05-other.conf", "10-kindnet.conflist"]);
    }

    #[test]
    fn binary_is_installed_by_rename_and_executable() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("sluice-cni");
        fs::write(&from, vec![7u8; 20_000]).unwrap();
        let bin = dir.path().join("bin");
        assert!(install_binary(&from, &bin).unwrap());
        assert!(!install_binary(&from, &bin).unwrap());
        let mode = fs::metadata(bin.join(BINARY_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        fs::write(&from, vec![8u8; 20_000]).unwrap();
        assert!(install_binary(&from, &bin).unwrap());
        fs::remove_file(&from).unwrap();
        let e = install_binary(&from, &bin).unwrap_err();
        assert!(e.to_string().contains("sluice-cni"));
    }
}
