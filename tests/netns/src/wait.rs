//! Waiting for a condition with a deadline.

use std::thread;
use std::time::{Duration, Instant};

/// Deadline of a condition.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);
/// Interval between two checks of a condition.
const INTERVAL: Duration = Duration::from_millis(20);

/// Repeats `check` until it succeeds; panics with its last error at the deadline.
#[track_caller]
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(error) if start.elapsed() > DEADLINE => {
                panic!("{what}: not within {DEADLINE:?}: {error}")
            }
            Err(_) => thread::sleep(INTERVAL),
        }
    }
}

/// [`eventually`] for a value that has to become equal to `want`.
#[track_caller]
pub fn eventually_equals<T: PartialEq + std::fmt::Debug>(
    what: &str,
    want: T,
    mut read: impl FnMut() -> T,
) {
    eventually(what, || match read() {
        value if value == want => Ok(()),
        value => Err(format!("{value:?}, expected {want:?}")),
    });
}
