//! The git revision that programs show as that of their sources.
//!
//! It is the last commit that changed the programs, not the one that is checked out: a commit that
//! changes documents or tests compiles nothing again, and equal programs have equal revisions.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::cache::checkout;
use crate::process;

/// Environment variable with the revision, which the programs are compiled with. A value that the
/// environment has already is kept, for builds from an archive of the sources.
pub const VARIABLE: &str = "SLUICE_REVISION";

/// Everything that the programs are built from.
pub const SOURCES: [&str; 6] =
    ["Cargo.toml", "Cargo.lock", ".cargo", "ebpf", "agent", "cni-plugin"];

/// Hexadecimal digits, independent of what the repository contains besides.
const DIGITS: usize = 12;

/// The revision of this checkout: that of the environment, else that of git, else `unknown`. `-dirty`
/// follows it if a source has a change that is not committed.
pub fn of_sources() -> String {
    let given = std::env::var(VARIABLE).ok().filter(|revision| !revision.is_empty());
    given.or_else(|| of_git(&checkout()).ok().flatten()).unwrap_or_else(|| "unknown".to_owned())
}

/// `None` without a commit that has one of the sources.
///
/// # Errors
/// When git is not installed, or the folder is not a Git repository.
fn of_git(folder: &Path) -> Result<Option<String>> {
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        // A build must not hold the lock of the index, which a concurrent commit needs.
        command.arg("--no-optional-locks").arg("-C").arg(folder).args(words);
        process::output(command.arg("--").args(SOURCES))
    };
    let commit = git(&["log", "-1", "--format=%H"])?;
    let Some(short) = commit.get(..DIGITS) else { return Ok(None) };
    let dirty = if git(&["status", "--porcelain"])?.is_empty() { "" } else { "-dirty" };
    Ok(Some(format!("{short}{dirty}")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn git(folder: &Path, words: &[&str]) -> String {
        let identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"];
        let mut command = Command::new("git");
        command.arg("-C").arg(folder).args(identity).args(["-c", "commit.gpgSign=false"]);
        process::output(command.args(words)).expect("git")
    }

    fn commit(folder: &Path, file: &str) -> String {
        fs::write(folder.join(file), file).expect("written");
        git(folder, &["add", "."]);
        git(folder, &["commit", "--quiet", "-m", file]);
        git(folder, &["rev-parse", "HEAD"])[..DIGITS].to_owned()
    }

    #[test]
    fn revision_is_the_last_commit_of_the_sources_and_shows_changes() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        assert!(of_git(folder).is_err(), "not a checkout");
        git(folder, &["init", "--quiet"]);
        commit(folder, "README.md");
        assert_eq!(of_git(folder).expect("read"), None);
        let sources = commit(folder, "Cargo.toml");
        commit(folder, "CHANGELOG.md");
        assert_eq!(of_git(folder).expect("read"), Some(sources.clone()));
        fs::write(folder.join("CHANGELOG.md"), "changed").expect("written");
        assert_eq!(of_git(folder).expect("read"), Some(sources.clone()));
        fs::create_dir(folder.join("agent")).expect("a folder");
        fs::write(folder.join("agent/new.rs"), "").expect("written");
        assert_eq!(of_git(folder).expect("read"), Some(format!("{sources}-dirty")));
    }

    #[test]
    fn every_source_exists() {
        for source in SOURCES {
            assert!(checkout().join(source).exists(), "{source}");
        }
    }
}
