//! Waiting for a condition with a deadline.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// Deadline of a condition.
const DEADLINE: Duration = Duration::from_secs(15);
/// Variable with the factor by which this machine is slower than those that deadlines are made for.
const FACTOR: &str = "SLUICE_TIME_FACTOR";
/// Interval between two checks of a condition.
const INTERVAL: Duration = Duration::from_millis(20);

/// A deadline on this machine: `cargo xtask kernels` sets the factor for emulators.
///
/// # Panics
/// If the variable is not a positive number.
pub fn scaled(deadline: Duration) -> Duration {
    static TIMES: OnceLock<u32> = OnceLock::new();
    let read = || match std::env::var(FACTOR) {
        Ok(text) => match text.parse() {
            Ok(factor) if factor > 0 => factor,
            _ => panic!("{FACTOR}={text} is not a positive number"),
        },
        Err(_) => 1,
    };
    deadline * *TIMES.get_or_init(read)
}

/// Deadline of a condition on this machine.
pub(crate) fn deadline() -> Duration {
    scaled(DEADLINE)
}

/// Repeats `check` until it succeeds; panics with its last error at the deadline.
#[track_caller]
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(error) if start.elapsed() > deadline() => {
                panic!("{what}: not within {:?}: {error}", deadline())
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
