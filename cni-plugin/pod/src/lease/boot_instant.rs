//! Time that reboots and changes of the wall clock do not affect.

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
    /// Reads the current time.
    ///
    /// # Errors
    /// The files in /proc cannot be read or parsed.
    pub fn now() -> io::Result<BootInstant> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(BootInstant { boot_id, seconds: uptime()? })
    }

    /// Seconds from `self` to `now`; `None` if the machine rebooted in between.
    pub fn age(&self, now: &BootInstant) -> Option<u64> {
        (self.boot_id == now.boot_id).then(|| now.seconds.saturating_sub(self.seconds))
    }
}

/// Reads the seconds since the boot of the machine.
///
/// # Errors
/// /proc/uptime cannot be read or parsed.
pub(super) fn uptime() -> io::Result<u64> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    parse_uptime(&uptime).ok_or_else(|| {
        let message = format!("/proc/uptime contains {uptime:?}");
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

/// Whole seconds of the first number in /proc/uptime (`12345.67 23456.78`).
pub fn parse_uptime(text: &str) -> Option<u64> {
    text.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn uptime_is_cut_to_whole_seconds() {
        for (text, seconds) in [
            ("12345.67 23456.78\n", Some(12345)),
            ("0.99 0.00\n", Some(0)),
            ("", None),
            ("-1.0 0.0", None),
            ("1,5 2,0", None),
            ("99999999999999999999.0 0", None),
        ] {
            assert_eq!(parse_uptime(text), seconds, "{text:?}");
        }
        let now = BootInstant::now().unwrap();
        assert!(!now.boot_id.is_empty() && now.age(&BootInstant::now().unwrap()).is_some());
    }

    #[test]
    fn age_ends_with_the_boot_and_is_never_negative() {
        let at = |boot_id: &str, seconds| BootInstant { boot_id: boot_id.into(), seconds };
        assert_eq!(at("one", 5).age(&at("one", 7)), Some(2));
        assert_eq!(at("one", 5).age(&at("one", 5)), Some(0));
        assert_eq!(at("one", 5).age(&at("one", 3)), Some(0));
        assert_eq!(at("one", 5).age(&at("two", 7)), None);
    }
}
