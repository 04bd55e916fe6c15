//! Counts of tests, read from what cargo prints while it prints it.

use crate::progress;
use anyhow::{Context, Result};
use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ended well.
    pub passed: usize,
    /// Did not.
    pub failed: usize,
    /// Could not run here, or were left out on purpose.
    pub skipped: usize,
}

impl Tally {
    /// Runs a command that ends well or does not: one test.
    pub fn check(name: &str, command: &mut Command, logs: &std::path::Path) -> Result<Self> {
        let ended = progress::run(name, command, logs);
        if let Err(error) = &ended {
            eprintln!("    {error:#}");
        }
        Ok(if ended.is_ok() {
            Self { passed: 1, ..Self::default() }
        } else {
            Self { failed: 1, ..Self::default() }
        })
    }

    /// Runs a cargo test command, shows what it says, and counts.
    ///
    /// A command that ends badly without a failed test (it did not compile, it crashed) counts
    /// as one failure.
    pub fn cargo(command: &mut Command) -> Result<Self> {
        let began = Instant::now();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().context("cannot start the tests")?;
        let output = child.stdout.take().context("the tests have no output")?;
        let (sender, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut tally = Self::default();
        loop {
            match lines.recv_timeout(SIGN_OF_LIFE) {
                Ok(line) => {
                    tally = tally + Self::of_line(&line);
                    if !line.trim().is_empty() {
                        println!("    {line}");
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    println!("  … {} so far", progress::time(began.elapsed()));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        let _ = reader.join();
        if !child.wait()?.success() && tally.failed == 0 {
            tally.failed = 1;
        }
        Ok(tally)
    }

    /// What one line of cargo's output adds: its sums, or a test's own word that it skipped.
    fn of_line(line: &str) -> Self {
        let Some(sums) = line.strip_prefix("test result: ") else {
            return Self { skipped: usize::from(line.starts_with("SKIPPED")), ..Self::default() };
        };
        let mut tally = Self::default();
        // "ok. 3 passed; 0 failed; 1 ignored; ..."
        for part in sums.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(count), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(count) = count.parse::<usize>() else { continue };
            match what {
                "passed" => tally.passed = count,
                "failed" => tally.failed = count,
                "ignored" => tally.skipped = count,
                _ => {}
            }
        }
        tally
    }

    /// The same, or one failure if not a single test ran.
    pub fn or_nothing_ran(self) -> Self {
        if self.passed + self.failed > 0 {
            return self;
        }
        eprintln!("not a single test ran");
        Self { failed: 1, ..self }
    }
}

impl std::ops::Add for Tally {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn cargos_sums_are_read_and_other_lines_are_not() {
        let line = "test result: FAILED. 12 passed; 2 failed; 3 ignored; 0 measured; 4 filtered out; finished in 0.31s";
        assert_eq!(Tally::of_line(line), Tally { passed: 12, failed: 2, skipped: 3 });
        assert_eq!(Tally::of_line("test five passed ... ok"), Tally::default());
        let skipped = Tally { skipped: 1, ..Tally::default() };
        assert_eq!(Tally::of_line("SKIPPED: no second kernel"), skipped);
    }

    #[test]
    fn nothing_run_is_a_failure() {
        assert_eq!(Tally::default().or_nothing_ran().failed, 1);
        assert_eq!(Tally { passed: 1, ..Tally::default() }.or_nothing_ran().failed, 0);
    }

    #[test]
    fn the_closing_line_is_what_ci_reads() {
        assert_eq!(Tally { passed: 3, failed: 0, skipped: 0 }.to_string(), "3 passed, 0 failed");
        let some = Tally { passed: 3, failed: 1, skipped: 2 };
        assert_eq!(some.to_string(), "3 passed, 1 failed, 2 skipped");
    }
}
