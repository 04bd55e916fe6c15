//! Waiting on conditions.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Asks again until `condition` is met, and tells the newest reason when `deadline` passes.
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
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}
