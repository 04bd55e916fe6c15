//! Forwarding sysctls below /proc/sys.
//!
//! In a container that is not privileged, /proc/sys is read-only: `sluice prepare-node` sets them
//! there, and the agent only checks. A value that is already right is never written.

use std::io;
use std::path::Path;

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

/// Enables IPv4 forwarding, also on `uplink` if it is known.
///
/// # Errors
/// The first sysctl that has another value and cannot be set.
pub fn enable_forwarding(uplink: Option<&str>) -> Result<(), SysctlError> {
    require("net/ipv4/ip_forward", "1")?;
    if let Some(device) = uplink {
        require(&format!("net/ipv4/conf/{device}/forwarding"), "1")?;
    }
    Ok(())
}

fn require(name: &str, value: &'static str) -> Result<(), SysctlError> {
    set(&Path::new("/proc/sys").join(name), value)
}

fn set(path: &Path, value: &'static str) -> Result<(), SysctlError> {
    let found = std::fs::read_to_string(path).unwrap_or_default();
    if found.trim() == value {
        return Ok(());
    }
    std::fs::write(path, value).map_err(|source| SysctlError {
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
        set(&file, "1").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
    }

    #[test]
    fn right_value_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ip_forward");
        std::fs::write(&file, "1\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
        set(&file, "1").unwrap();
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
