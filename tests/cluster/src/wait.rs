//! Waiting on conditions.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How often a condition is evaluated.
const INTERVAL: Duration = Duration::from_millis(200);

/// Evaluates `condition` until it holds. Fails the test with the last reason after `deadline`.
#[track_caller]
pub fn eventually<T, E: Display>(
    what: &str,
    deadline: Duration,
    condition: impl FnMut() -> Result<T, E>,
) -> T {
    within(deadline, condition).unwrap_or_else(|reason| panic!("{what}: {reason}"))
}

/// Evaluates `condition` until it holds.
///
/// # Errors
/// The last reason, after `deadline`.
pub fn within<T, E: Display>(
    deadline: Duration,
    mut condition: impl FnMut() -> Result<T, E>,
) -> Result<T, String> {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(reason) if start.elapsed() > deadline => {
                return Err(format!("not within {deadline:?}: {reason}"));
            }
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}
