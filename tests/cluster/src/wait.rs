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
    mut condition: impl FnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(reason) if start.elapsed() > deadline => {
                panic!("{what}: not within {deadline:?}: {reason}")
            }
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}
