//! Progress output of long steps.
//!
//! A step prints one line when it ends: name, result, duration. A step that is still running
//! prints a line every ten seconds, so that the terminal shows progress.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Interval of the lines that a running step prints.
pub const REPORT_EVERY: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(250);

/// Formats a duration as `4.2s` or `1m05s`.
pub fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1}s")
    } else {
        format!("{}m{:02}s", duration.as_secs() / 60, duration.as_secs() % 60)
    }
}

/// Prints the closing line of a step.
pub fn line(name: &str, result: &str, took: Duration) {
    println!("  {name:<40} {result:<42} {:>7}", time(took));
    let _ = std::io::stdout().flush();
}

/// Runs `work` as a step. The string that it returns is the result in the closing line.
///
/// # Errors
/// The error of `work`, with the step's name as context.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
    let start = Instant::now();
    let (value, result) = work().with_context(|| format!("{name} failed"))?;
    line(name, &result, start.elapsed());
    Ok(value)
}

/// Calls `ready` four times a second until it succeeds.
///
/// # Errors
/// When `deadline` has passed. The message contains the last error of `ready`.
pub fn wait<T>(
    name: &str,
    deadline: Duration,
    mut ready: impl FnMut() -> Result<T, String>,
) -> Result<T> {
    let mut reporter = Reporter::new(name);
    loop {
        match ready() {
            Ok(value) => return Ok(value),
            Err(reason) if reporter.elapsed() >= deadline => {
                bail!("{name} not ready after {}: {reason}", time(deadline))
            }
            Err(reason) => reporter.report(|| reason),
        }
        std::thread::sleep(POLL);
    }
}

/// Prints the lines of one running step.
pub struct Reporter<'a> {
    name: &'a str,
    start: Instant,
    next: Duration,
}

impl<'a> Reporter<'a> {
    /// Starts the step's clock.
    pub fn new(name: &'a str) -> Self {
        Self { name, start: Instant::now(), next: REPORT_EVERY }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Prints a line when one is due; `detail` is called only then.
    pub fn report(&mut self, detail: impl FnOnce() -> String) {
        if self.elapsed() < self.next {
            return;
        }
        self.next += REPORT_EVERY;
        let detail: String = detail().trim().chars().take(70).collect();
        let separator = if detail.is_empty() { "" } else { ": " };
        println!("  … {}, {} so far{separator}{detail}", self.name, time(self.elapsed()));
        let _ = std::io::stdout().flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_in_seconds_below_a_minute() {
        assert_eq!(time(Duration::from_millis(4_230)), "4.2s");
        assert_eq!(time(Duration::from_secs(65)), "1m05s");
    }

    #[test]
    fn wait_reports_the_last_error_when_the_deadline_passes() {
        let waited: Result<()> = wait("server", Duration::ZERO, || Err("refused".to_owned()));
        let message = waited.expect_err("the deadline has passed").to_string();
        assert_eq!(message, "server not ready after 0.0s: refused");
    }
}
