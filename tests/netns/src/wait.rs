//! Waiting for a condition, never for a time.

use std::thread;
use std::time::{Duration, Instant};

/// What everything that should happen soon may take at most.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Tries until `look` succeeds; ends the test with its last words otherwise.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(why) if start.elapsed() > PATIENCE => {
                panic!("{what}: not within {PATIENCE:?}: {why}")
            }
            Err(_) => thread::sleep(LOOK),
        }
    }
}
