//! Runs the commands of one level: output, counts, time, deadline.
//!
//! Skipped tests come from the file `SLUICE_SKIP_FILE`, and from lines `SKIPPED name: reason` on
//! stdout, which a test writes past the capture of libtest. A test in both counts once.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::artefacts::Artefacts;
use super::outcomes::{self, Outcomes};
use super::tally::Tally;
use crate::cache::target;
use crate::process::{self, ProcessTree};
use crate::progress::Reporter;

const POLL: Duration = Duration::from_secs(1);
/// Interval of looks at a process whose output has ended.
const EXIT_POLL: Duration = Duration::from_millis(20);

/// One level's run.
pub struct Runner {
    artefacts: PathBuf,
    skip_file: PathBuf,
    start: Instant,
    preparation: Duration,
    limit: Duration,
    skipped: BTreeSet<String>,
    level: String,
    cases: Option<u32>,
    outcomes: Outcomes,
}

impl Runner {
    /// Starts the level's clock. `cases` replaces the numbers of random cases of its tests.
    ///
    /// # Errors
    /// When the file for skipped tests cannot be emptied.
    pub fn new(
        artefacts: &Artefacts,
        level: &str,
        budget: Duration,
        cases: Option<u32>,
    ) -> Result<Self> {
        let skip_file = target().join(format!("skipped-{level}.txt"));
        fs::write(&skip_file, "")
            .with_context(|| format!("cannot write {}", skip_file.display()))?;
        Ok(Self {
            artefacts: artefacts.folder().to_owned(),
            skip_file,
            start: Instant::now(),
            preparation: Duration::ZERO,
            limit: 3 * budget,
            skipped: BTreeSet::new(),
            level: level.to_owned(),
            cases,
            outcomes: Outcomes::new(),
        })
    }

    /// Runs an installation or a build, which is not part of the level's time.
    ///
    /// # Errors
    /// The error of `work`.
    pub fn prepare<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = work();
        self.preparation += start.elapsed();
        result
    }

    /// Time of the tests so far.
    pub fn time(&self) -> Duration {
        self.start.elapsed().saturating_sub(self.preparation)
    }

    /// Time of installations and builds so far.
    pub fn preparation(&self) -> Duration {
        self.preparation
    }

    /// Runs a command whose exit status is one test.
    pub fn check(&self, name: &str, command: &mut Command, logs: &std::path::Path) -> Tally {
        match process::run(name, command, logs, self.remaining()) {
            Ok(()) => Tally::SUCCESS,
            Err(error) => {
                eprintln!("    {error:#}");
                Tally::FAILURE
            }
        }
    }

    /// Runs a `cargo test` command, prints its output and counts its tests.
    ///
    /// A command that fails without a failed test, because it does not compile or crashes, counts
    /// as one failure.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn cargo_test(&mut self, command: &mut Command) -> Result<Tally> {
        command
            .env("SLUICE_SKIP_FILE", &self.skip_file)
            .env("SLUICE_TEST_ARTEFACTS", &self.artefacts)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.envs(self.cases.map(|cases| ("CASES", cases.to_string())));
        let mut tree = ProcessTree::start(command)?;
        let (sender, lines) = mpsc::channel();
        let (stdout, stderr) = (tree.child().stdout.take(), tree.child().stderr.take());
        forward(stdout, sender.clone());
        forward(stderr, sender);
        let deadline = self.remaining();
        let mut reporter = Reporter::new("tests");
        let mut tally = Tally::default();
        loop {
            match lines.recv_timeout(POLL) {
                Ok(line) => {
                    if let Some(reason) = line.strip_prefix("SKIPPED ") {
                        self.skipped.insert(reason.trim().to_owned());
                        continue;
                    }
                    self.outcomes.extend(outcomes::of_line(&line));
                    let counts = Tally::of_line(&line);
                    tally = tally + counts.unwrap_or_default();
                    if !is_noise(&line, counts) {
                        println!("    {line}");
                        reporter = Reporter::new("tests");
                    }
                }
                Err(RecvTimeoutError::Timeout) => reporter.report(String::new),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.time() >= self.limit {
                tree.kill();
                eprintln!(
                    "error: tests killed after {}; artefacts: {}",
                    crate::progress::time(deadline),
                    self.artefacts.display()
                );
                return Ok(tally + Tally::FAILURE);
            }
        }
        // Its output has ended; a process that does not exit is killed.
        let status = tree.wait_within("tests", self.remaining(), EXIT_POLL);
        let success = match status {
            Ok(status) => status.success(),
            Err(error) => {
                eprintln!("error: {error:#}");
                false
            }
        };
        Ok(if success || tally.failed > 0 { tally } else { tally + Tally::FAILURE })
    }

    /// Writes the outcome of each test, for `cargo xtask contract`. Those of a complete run replace all
    /// earlier ones.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_outcomes(&self, complete: bool) -> Result<()> {
        let mut outcomes = self.outcomes.clone();
        // libtest counts them as passed.
        for line in &self.skipped {
            let name = line.split(':').next().unwrap_or(line).trim();
            if let Some(outcome) = outcomes.get_mut(name) {
                "skipped".clone_into(outcome);
            }
        }
        outcomes::add(&self.level, &outcomes, complete)
    }

    /// Moves tests that skipped themselves, which libtest counts as passed, to `skipped`, and
    /// prints their reasons.
    ///
    /// # Errors
    /// When the file for skipped tests cannot be read.
    pub fn without_skipped(&mut self, tally: Tally) -> Result<Tally> {
        let text = fs::read_to_string(&self.skip_file)
            .with_context(|| format!("cannot read {}", self.skip_file.display()))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        self.skipped.extend(lines.map(str::to_owned));
        for line in &self.skipped {
            println!("    skipped: {line}");
        }
        let count = self.skipped.len();
        Ok(Tally {
            passed: tally.passed.saturating_sub(count),
            skipped: tally.skipped + count,
            ..tally
        })
    }

    fn remaining(&self) -> Duration {
        self.limit.saturating_sub(self.time())
    }
}

/// Lines of test binaries and doc-tests without tests.
fn is_noise(line: &str, counts: Option<Tally>) -> bool {
    let line = line.trim();
    line.is_empty()
        || line == "running 0 tests"
        || line.starts_with("Doc-tests ")
        || counts == Some(Tally::default())
}

fn forward(pipe: Option<impl Read + Send + 'static>, lines: Sender<String>) {
    let Some(pipe) = pipe else { return };
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A runner that writes to this folder, and stops commands after `limit`.
    fn runner(folder: &Path, limit: Duration) -> Runner {
        let skip_file = folder.join("skipped.txt");
        fs::write(&skip_file, "").expect("skip file");
        Runner {
            artefacts: folder.to_owned(),
            skip_file,
            start: Instant::now(),
            preparation: Duration::ZERO,
            limit,
            skipped: BTreeSet::new(),
            level: "unit".to_owned(),
            cases: None,
            outcomes: Outcomes::new(),
        }
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const TWO: &str = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured";

    #[test]
    fn test_that_writes_to_the_skip_file_is_skipped_and_not_passed() {
        let folder = tempfile::tempdir().expect("folder");
        for line in [
            "echo 'sctp: no module' >> $SLUICE_SKIP_FILE",
            "echo 'SKIPPED sctp: no module'",
            "echo 'SKIPPED sctp: no module'; echo 'sctp: no module' >> $SLUICE_SKIP_FILE",
        ] {
            let mut runner = runner(folder.path(), LIMIT);
            let script = format!("{line}; echo '{TWO}'");
            let tally = runner.cargo_test(&mut shell(&script)).expect("started");
            assert_eq!(tally, Tally { passed: 2, failed: 0, skipped: 0 });
            let tally = runner.without_skipped(tally).expect("the skip file is readable");
            assert_eq!(tally, Tally { passed: 1, failed: 0, skipped: 1 }, "{line}");
        }
    }

    #[test]
    fn number_of_cases_is_passed_to_the_tests() {
        let folder = tempfile::tempdir().expect("folder");
        for (cases, status) in [(Some(7), 0), (Some(8), 1), (None, 1)] {
            let mut runner = runner(folder.path(), LIMIT);
            runner.cases = cases;
            let mut command = shell("test \"$CASES\" = 7");
            let tally = runner.cargo_test(command.env_remove("CASES")).expect("started");
            assert_eq!(tally.failed, status, "{cases:?}");
        }
    }

    #[test]
    fn command_that_crashes_without_a_failed_test_is_a_failure() {
        let folder = tempfile::tempdir().expect("folder");
        let mut runner = runner(folder.path(), LIMIT);
        let tally = runner.cargo_test(&mut shell(&format!("echo '{TWO}'; exit 101")));
        assert_eq!(tally.expect("started"), Tally { passed: 2, failed: 1, skipped: 0 });
    }

    #[test]
    fn tests_that_exceed_the_deadline_are_killed_and_fail() {
        let folder = tempfile::tempdir().expect("folder");
        let mut runner = runner(folder.path(), Duration::from_millis(500));
        let start = Instant::now();
        let tally = runner.cargo_test(&mut shell("echo started; sleep 600"));
        assert_eq!(tally.expect("started"), Tally::FAILURE);
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn process_that_stays_after_its_output_has_ended_is_killed_and_fails() {
        let folder = tempfile::tempdir().expect("folder");
        let mut runner = runner(folder.path(), Duration::from_millis(600));
        let start = Instant::now();
        let script = format!("echo '{TWO}'; exec > /dev/null 2>&1; sleep 600");
        let tally = runner.cargo_test(&mut shell(&script)).expect("started");
        assert_eq!(tally, Tally { passed: 2, failed: 1, skipped: 0 });
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn output_of_empty_test_binaries_is_hidden() {
        for (line, hidden) in [
            ("", true),
            ("running 0 tests", true),
            ("   Doc-tests sluice_abi", true),
            ("test result: ok. 0 passed; 0 failed; 0 ignored; 7 filtered out", true),
            ("running 3 tests", false),
            (TWO, false),
        ] {
            assert_eq!(is_noise(line, Tally::of_line(line)), hidden, "{line}");
        }
    }
}
