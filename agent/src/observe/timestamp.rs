//! Values of metrics that are points in time.

use std::time::SystemTime;

/// Seconds since the epoch.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
