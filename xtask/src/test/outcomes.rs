//! The outcome of each test of the last run, by level, in `target/outcomes/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache::target;

/// Outcomes by the name of the test, without the modules that it is in.
pub type Outcomes = BTreeMap<String, String>;

fn file(level: &str) -> PathBuf {
    target().join("outcomes").join(format!("{level}.txt"))
}

/// Reads the outcomes of a level; none if it has not been run.
pub fn read(level: &str) -> Outcomes {
    let text = fs::read_to_string(file(level)).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(outcome, name)| (name.to_owned(), outcome.to_owned())).collect()
}

/// Adds outcomes to those of earlier runs, of which they replace all if the run was complete.
///
/// # Errors
/// When the file cannot be written.
pub fn add(level: &str, new: &Outcomes, complete: bool) -> Result<()> {
    let mut all = if complete { Outcomes::new() } else { read(level) };
    all.extend(new.iter().map(|(name, outcome)| (name.clone(), outcome.clone())));
    let lines: String = all.iter().map(|(name, outcome)| format!("{outcome} {name}\n")).collect();
    let path = file(level);
    fs::create_dir_all(target().join("outcomes"))?;
    fs::write(&path, lines).with_context(|| format!("cannot write {}", path.display()))
}

/// Name and outcome in a line of libtest: `test module::name ... ok`. A test that prints can
/// separate the two; its line has then no outcome.
pub fn of_line(line: &str) -> Option<(String, String)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let name = name.split_whitespace().next()?;
    let name = name.rsplit("::").next().unwrap_or(name);
    let outcome = match outcome.split([',', ' ']).next()? {
        "ok" => "passed",
        "FAILED" => "failed",
        "ignored" => "skipped",
        _ => return None,
    };
    Some((name.to_owned(), outcome.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::of_line;

    #[test]
    fn lines_of_libtest_have_name_and_outcome() {
        let of = |line| of_line(line).map(|(name, outcome)| format!("{name} {outcome}"));
        assert_eq!(of("test cases::contract::c_1 ... ok").as_deref(), Some("c_1 passed"));
        assert_eq!(of("test a - should panic ... FAILED").as_deref(), Some("a failed"));
        assert_eq!(of("test a ... ignored, by hand").as_deref(), Some("a skipped"));
        assert_eq!(of("test result: ok. 1 passed"), None);
        assert_eq!(of("test a ... SKIPPED"), None);
    }
}
