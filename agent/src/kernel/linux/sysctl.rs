//! Kernel switches that a router needs, written to /proc/sys.
//!
//! In a container that is not privileged /proc/sys is read-only: `sluice prepare-node` sets them
//! then, and the agent only checks. What is right already is never written.

use std::io;
use std::path::Path;

/// A switch that could not be set.
#[derive(Debug, thiserror::Error)]
#[error("{path} must be {value} and is {found}: run `sluice prepare-node`, or set it on the node")]
pub struct SysctlError {
    /// File below /proc/sys.
    pub path: String,
    /// What it must be.
    pub value: &'static str,
    /// What it is.
    pub found: String,
    /// Why it cannot be written.
    #[source]
    pub source: io::Error,
}

/// Lets the node forward packets, on `uplink` too if it is known already.
///
/// # Errors
/// The first switch that is wrong and cannot be set.
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
    use super::*;

    #[test]
    fn what_is_right_is_not_written_and_failure_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ip_forward");
        std::fs::write(&file, "0\n").unwrap();
        set(&file, "1").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
        let e = set(&dir.path().join("none/ip_forward"), "1").unwrap_err();
        assert!(e.to_string().contains("none/ip_forward must be 1 and is unreadable"), "{e}");
    }
}
