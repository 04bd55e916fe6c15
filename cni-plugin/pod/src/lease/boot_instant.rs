//! Time that neither a reboot nor a changed wall clock can confuse.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// A boot of the machine, and seconds since then (suspended time included).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootInstant {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Whole seconds since that boot.
    pub seconds: u64,
}

impl BootInstant {
    /// The present.
    ///
    /// # Errors
    /// If /proc is not there or unreadable.
    pub fn now() -> io::Result<BootInstant> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let uptime = fs::read_to_string("/proc/uptime")?;
        let seconds =
            uptime.split('.').next().and_then(|whole| whole.parse().ok()).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/uptime")
            })?;
        Ok(BootInstant { boot_id, seconds })
    }

    /// Seconds from `self` to `now`; `None` if a reboot lies between them.
    pub fn age(&self, now: &BootInstant) -> Option<u64> {
        (self.boot_id == now.boot_id).then(|| now.seconds.saturating_sub(self.seconds))
    }
}
