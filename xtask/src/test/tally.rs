//! Counts of tests.

use std::fmt;

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed, and commands that failed without a failed test.
    pub failed: usize,
    /// Tests that cannot run on this machine or are ignored.
    pub skipped: usize,
}

impl Tally {
    /// One failure.
    pub const FAILURE: Self = Self { passed: 0, failed: 1, skipped: 0 };

    /// One test that passed.
    pub const SUCCESS: Self = Self { passed: 1, failed: 0, skipped: 0 };

    /// Parses a line of libtest; `None` if it is not a summary.
    pub fn of_line(line: &str) -> Option<Self> {
        let sums = line.strip_prefix("test result: ")?;
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
        Some(tally)
    }

    /// Adds a failure if no test ran.
    pub fn or_nothing_ran(self) -> Self {
        if self.passed + self.failed + self.skipped > 0 {
            return self;
        }
        eprintln!("error: no test ran");
        Self::FAILURE
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
    fn summaries_of_libtest_are_parsed() {
        let line = "test result: FAILED. 12 passed; 2 failed; 3 ignored; 0 measured; 4 filtered out; finished in 0.31s";
        assert_eq!(Tally::of_line(line), Some(Tally { passed: 12, failed: 2, skipped: 3 }));
        assert_eq!(Tally::of_line("test five passed ... ok"), None);
    }

    #[test]
    fn level_without_a_test_fails() {
        assert_eq!(Tally::default().or_nothing_ran(), Tally::FAILURE);
        assert_eq!(Tally::SUCCESS.or_nothing_ran(), Tally::SUCCESS);
    }

    #[test]
    fn closing_line_has_the_format_that_ci_parses() {
        assert_eq!(Tally { passed: 3, failed: 0, skipped: 0 }.to_string(), "3 passed, 0 failed");
        let some = Tally { passed: 3, failed: 1, skipped: 2 };
        assert_eq!(some.to_string(), "3 passed, 1 failed, 2 skipped");
    }
}
