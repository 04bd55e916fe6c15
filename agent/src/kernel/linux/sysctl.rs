//! Forwarding sysctls below /proc/sys.
//!
//! In a container that is not privileged, /proc/sys is read-only; the manifest mounts the node's
//! /proc/sys/net beside it. Without that mount, `sluice prepare-node` sets them, and the agent only
//! checks. A value that is already right is never written.

use std::io;
use std::path::Path;

use sluice_pod::PROC_SYS;

/// The node's sysctls, mounted writable.
const WRITABLE: &str = "/host/proc/sys";

/// The folder of the sysctls: the writable mount, else /proc/sys.
pub fn root() -> &'static Path {
    let writable = Path::new(WRITABLE);
    if writable.join("net/ipv4").is_dir() { writable } else { Path::new(PROC_SYS) }
}

/// A sysctl that has another value and cannot be set.
#[derive(Debug, thiserror::Error)]
#[error("{path} must be {value} and is {found}: run `sluice prepare-node` or set it on the node")]
pub struct SysctlError {
    path: String,
    value: &'static str,
    found: String,
    #[source]
    source: io::Error,
}

/// Enables IPv4 forwarding, also on `uplink` if it is known. Returns whether anything changed.
///
/// # Errors
/// The first sysctl that has another value and cannot be set.
pub fn enable_forwarding(uplink: Option<&str>) -> Result<bool, SysctlError> {
    let mut changed = require("net/ipv4/ip_forward", "1")?;
    if let Some(device) = uplink {
        changed |= require(&format!("net/ipv4/conf/{device}/forwarding"), "1")?;
    }
    Ok(changed)
}

fn require(name: &str, value: &'static str) -> Result<bool, SysctlError> {
    set(&root().join(name), value)
}

/// Sets a value; returns whether it was another one.
fn set(path: &Path, value: &'static str) -> Result<bool, SysctlError> {
    let found = std::fs::read_to_string(path).unwrap_or_default();
    if found.trim() == value {
        return Ok(false);
    }
    std::fs::write(path, value).map(|()| true).map_err(|source| SysctlError {
        path: path.display().to_string(),
        value,
        found: if found.is_empty() { "unreadable".to_owned() } else { found.trim().to_owned() },
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn other_value_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ip_forward");
        std::fs::write(&file, "0\n").unwrap();
        assert!(set(&file, "1").unwrap());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
    }

    #[test]
    fn right_value_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ip_forward");
        std::fs::write(&file, "1\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert!(!set(&file, "1").unwrap());
        // A write would have removed the newline.
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "1\n");
    }

    #[test]
    fn error_names_the_file_and_both_values() {
        let dir = tempfile::tempdir().unwrap();
        let e = set(&dir.path().join("none/ip_forward"), "1").unwrap_err();
        assert!(e.to_string().contains("none/ip_forward must be 1 and is unreadable"), "{e}");
    }
}
