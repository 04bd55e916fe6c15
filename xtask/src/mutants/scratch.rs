//! The scratch tree: a git worktree of the checked-out commit, in which mutations are applied.
//!
//! The checkout itself is never changed. The tree has its own build folder, so that a mutated
//! build never replaces a product of the checkout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::list::{Check, Level};
use super::results::Outcome;
use crate::cache::{checkout, target};
use crate::process;

/// What cargo prints when code does not compile.
const COMPILE_ERROR: &str = "could not compile";
/// The agent is compiled again for each mutation. Profiles with link-time optimization cannot be
/// incremental.
const INCREMENTAL: [(&str, &str); 3] = [
    ("CARGO_PROFILE_RELEASE_INCREMENTAL", "true"),
    ("CARGO_PROFILE_CNI_INCREMENTAL", "false"),
    ("CARGO_PROFILE_EBPF_INCREMENTAL", "false"),
];
/// Time budgets are not judged: a mutation that makes tests slow is not a failure by itself.
const BUDGET_FACTOR: &str = "20";

/// The folder of scratch tree, builds and results.
pub fn folder() -> PathBuf {
    target().join("mutants")
}

/// The scratch tree.
pub struct Scratch {
    path: PathBuf,
    logs: PathBuf,
    commit: String,
}

impl Scratch {
    /// Creates the tree, or resets it to the checked-out commit.
    ///
    /// # Errors
    /// When git fails.
    pub fn open() -> Result<Scratch> {
        let path = folder().join("tree");
        let commit = process::output(git(&checkout()).args(["rev-parse", "HEAD"]))?;
        if path.join(".git").exists() {
            process::output(
                git(&path).args(["checkout", "--quiet", "--force", "--detach", &commit]),
            )?;
        } else {
            fs::create_dir_all(folder())?;
            process::output(
                git(&checkout())
                    .args(["worktree", "add", "--force", "--quiet", "--detach"])
                    .arg(&path)
                    .arg(&commit),
            )?;
        }
        // cargo merges this file with that of the checkout above it, which would double each flag.
        fs::remove_file(path.join(".cargo/config.toml")).context("remove .cargo/config.toml")?;
        let scratch = Scratch { path, logs: folder().join("logs"), commit };
        scratch.clean()?;
        if !process::output(git(&checkout()).args(["status", "--porcelain"]))?.is_empty() {
            println!("  warning: uncommitted changes are not part of the tested tree");
        }
        Ok(scratch)
    }

    /// The checked-out commit.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// Reads a file of the tree.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.path.join(path)).with_context(|| format!("cannot read {path}"))
    }

    /// Replaces a file of the tree.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        fs::write(self.path.join(path), text).with_context(|| format!("cannot write {path}"))
    }

    /// Runs one check against the tree as it is. `name` is the name of the log file.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn run(&self, name: &str, check: &Check, deadline: Duration) -> Result<Outcome> {
        let mut command = Command::new("cargo");
        command
            .current_dir(&self.path)
            .args(arguments(check))
            .envs(INCREMENTAL)
            .env("CARGO_TARGET_DIR", folder().join("build"));
        let start = Instant::now();
        // One failed test is enough.
        let (status, log) =
            process::run_until(name, &mut command, &self.logs, deadline, has_failed_test)?;
        let log = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
        let success = status.is_some_and(|status| status.success());
        let log = String::from_utf8_lossy(&log);
        if status.is_none() && start.elapsed() >= deadline && !has_failed_test(&log) {
            return Ok(Outcome::TimedOut);
        }
        Ok(outcome(success, &log))
    }

    /// Removes files that a test wrote, such as the failed inputs of a property, which would be
    /// replayed against the next mutation.
    ///
    /// # Errors
    /// When git fails.
    pub fn clean(&self) -> Result<()> {
        process::output(git(&self.path).args(["clean", "-d", "--force", "--quiet"])).map(drop)
    }
}

/// Whether libtest printed a failed test, under its name or in the tests of a level.
fn has_failed_test(log: &str) -> bool {
    log.lines().any(|line| {
        let line = line.trim();
        line.starts_with("test ") && line.ends_with("... FAILED")
    })
}

fn git(folder: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder);
    command
}

/// The arguments of cargo for a check.
fn arguments(check: &Check) -> Vec<&str> {
    let (words, last): (&[&str], &[&str]) = match check.level {
        // As many threads as the unit level: tests of outages wait most of their time.
        Level::Unit => (&["test", "--package"], &["--", "--test-threads=4"]),
        Level::Packet | Level::Netns => (
            &["xtask", "test", "--budget-factor", BUDGET_FACTOR, "--level", check.level.name()],
            &[],
        ),
    };
    words.iter().copied().chain(check.argument.as_deref()).chain(last.iter().copied()).collect()
}

fn outcome(success: bool, log: &str) -> Outcome {
    match success {
        true => Outcome::Survived,
        false if log.contains(COMPILE_ERROR) => Outcome::DidNotBuild,
        false => Outcome::Caught,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_is_a_cargo_command() {
        let check =
            |level, argument: Option<&str>| Check { level, argument: argument.map(str::to_owned) };
        assert_eq!(
            arguments(&check(Level::Unit, Some("sluice-pod"))),
            ["test", "--package", "sluice-pod", "--", "--test-threads=4"]
        );
        assert_eq!(
            arguments(&check(Level::Netns, Some("reply"))),
            ["xtask", "test", "--budget-factor", "20", "--level", "netns", "reply"]
        );
        assert_eq!(arguments(&check(Level::Packet, None)).last(), Some(&"packet"));
    }

    #[test]
    fn failed_test_is_found_in_the_output_of_libtest_and_of_a_level() {
        assert!(has_failed_test("running 1 test\ntest a::b ... FAILED\n"));
        assert!(has_failed_test("    test a::b ... FAILED\n"));
        assert!(!has_failed_test("test a::b ... ok\ntest result: FAILED. 0 passed"));
    }

    #[test]
    fn compile_error_is_not_a_caught_mutation() {
        let log = "error: could not compile `sluice-pod` (lib) due to 1 previous error";
        assert_eq!(outcome(false, log), Outcome::DidNotBuild);
        assert_eq!(outcome(false, "test result: FAILED"), Outcome::Caught);
        assert_eq!(outcome(true, "test result: ok"), Outcome::Survived);
    }
}
