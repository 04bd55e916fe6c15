//! Results of mutations: the file that makes a run resumable, and the score table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::progress;

/// Share of mutations that must be caught, in percent.
pub const REQUIRED_PERCENT: usize = 90;

/// What the tests did with a mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A test failed.
    Caught,
    /// The tests did not end before the deadline, which counts as caught.
    TimedOut,
    /// Every test passed.
    Survived,
    /// The mutated code does not compile, so it says nothing about the tests.
    DidNotBuild,
}

impl Outcome {
    const ALL: [Outcome; 4] =
        [Outcome::Caught, Outcome::TimedOut, Outcome::Survived, Outcome::DidNotBuild];

    /// The name in the results file and in the table.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Caught => "caught",
            Outcome::TimedOut => "timed out",
            Outcome::Survived => "survived",
            Outcome::DidNotBuild => "did not build",
        }
    }

    fn is_caught(self) -> bool {
        matches!(self, Outcome::Caught | Outcome::TimedOut)
    }
}

/// The result of one mutation.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Name of the mutation.
    pub id: String,
    /// Hash of the mutation and of the file that it changes.
    pub hash: String,
    /// The outcome.
    pub outcome: Outcome,
    /// The last check that ran.
    pub check: String,
    /// Time of all checks.
    pub duration: Duration,
}

impl Record {
    fn to_line(&self) -> String {
        let Record { id, hash, outcome, check, duration } = self;
        let seconds = duration.as_secs_f64();
        let outcome = outcome.name();
        json!({"id": id, "hash": hash, "outcome": outcome, "check": check, "seconds": seconds})
            .to_string()
    }

    fn from_line(line: &str) -> Option<Record> {
        let json: Value = serde_json::from_str(line).ok()?;
        let text = |field: &str| json[field].as_str().map(str::to_owned);
        let outcome = text("outcome")?;
        Some(Record {
            id: text("id")?,
            hash: text("hash")?,
            outcome: Outcome::ALL.into_iter().find(|o| o.name() == outcome)?,
            check: text("check")?,
            duration: Duration::try_from_secs_f64(json["seconds"].as_f64()?).ok()?,
        })
    }
}

/// Reads the results file: the last record of each mutation. A missing file is empty, and a line
/// that an interrupted run left incomplete is skipped.
pub fn read(path: &Path) -> BTreeMap<String, Record> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(Record::from_line).map(|r| (r.id.clone(), r)).collect()
}

/// Appends a record to the results file.
///
/// # Errors
/// When the file cannot be written.
pub fn append(path: &Path, record: &Record) -> Result<()> {
    let write = || {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        writeln!(file, "{}", record.to_line())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// A mutation in the score table.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The row of the table.
    pub group: String,
    /// Name of the mutation.
    pub name: String,
    /// The outcome; `None` if the mutation has not been run.
    pub outcome: Option<Outcome>,
    /// Time of its checks.
    pub duration: Duration,
}

/// Numbers of mutations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    caught: usize,
    survived: usize,
    /// Number of mutations that do not compile. They have no part in the share.
    pub unbuilt: usize,
    not_run: usize,
    duration: Duration,
}

impl Score {
    /// Counts the outcomes.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Score {
        let mut score = Score::default();
        for entry in entries {
            score.duration += entry.duration;
            match entry.outcome {
                None => score.not_run += 1,
                Some(Outcome::DidNotBuild) => score.unbuilt += 1,
                Some(outcome) if outcome.is_caught() => score.caught += 1,
                Some(_) => score.survived += 1,
            }
        }
        score
    }

    /// Whether enough mutations are caught. A run that judged none is not sufficient.
    pub fn suffices(self) -> bool {
        let judged = self.caught + self.survived;
        judged > 0 && self.caught * 100 >= judged * REQUIRED_PERCENT
    }

    fn row(self, name: &str) -> String {
        let judged = self.caught + self.survived;
        let percent = (self.caught * 100).checked_div(judged);
        format!(
            "  {name:<16} {:>6} {:>8} {:>13} {:>7} {:>9} {:>6}\n",
            self.caught,
            self.survived,
            self.unbuilt,
            self.not_run,
            progress::time(self.duration),
            percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent} %")),
        )
    }
}

/// The score table, followed by the mutations that were not caught.
pub fn table(entries: &[Entry]) -> String {
    let mut groups: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        groups.entry(&entry.group).or_default().push(entry);
    }
    let mut text = format!(
        "  {:<16} {:>6} {:>8} {:>13} {:>7} {:>9} {:>6}\n",
        "", "caught", "survived", "did not build", "not run", "time", "score"
    );
    for (name, entries) in &groups {
        text += &Score::of(entries.iter().copied()).row(name);
    }
    text += &Score::of(entries).row("all");
    for entry in entries {
        if let Some(outcome @ (Outcome::Survived | Outcome::DidNotBuild)) = entry.outcome {
            let _ = writeln!(text, "    {}: {}", outcome.name(), entry.name);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(caught: usize, survived: usize) -> Vec<Entry> {
        let entry = |outcome| Entry {
            group: "group".to_owned(),
            name: "name".to_owned(),
            outcome,
            duration: Duration::from_secs(1),
        };
        let mut entries = vec![entry(None), entry(Some(Outcome::DidNotBuild))];
        entries
            .extend((0..caught).map(|n| {
                entry(Some(if n % 2 == 0 { Outcome::Caught } else { Outcome::TimedOut }))
            }));
        entries.extend((0..survived).map(|_| entry(Some(Outcome::Survived))));
        entries
    }

    #[test]
    fn ninety_percent_of_judged_mutations_suffice() {
        assert!(Score::of(&entries(90, 10)).suffices());
        assert!(!Score::of(&entries(89, 11)).suffices());
        assert!(Score::of(&entries(1, 0)).suffices());
        assert!(!Score::of(&entries(0, 0)).suffices());
    }

    #[test]
    fn table_lists_groups_and_survivors() {
        let text = table(&entries(3, 1));
        let lines: Vec<String> =
            text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines[1..],
            [
                "group 3 1 1 1 6.0s 75 %",
                "all 3 1 1 1 6.0s 75 %",
                "did not build: name",
                "survived: name"
            ]
        );
    }

    #[test]
    fn last_complete_record_of_a_mutation_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("results.jsonl");
        let record = |outcome| Record {
            id: "id".to_owned(),
            hash: "hash".to_owned(),
            outcome,
            check: "packet".to_owned(),
            duration: Duration::from_millis(1500),
        };
        assert!(read(&path).is_empty());
        append(&path, &record(Outcome::Survived)).expect("write");
        append(&path, &record(Outcome::DidNotBuild)).expect("write");
        let mut text = fs::read_to_string(&path).expect("read");
        text += "{\"id\": \"id\", \"ha";
        fs::write(&path, text).expect("write");
        let found = read(&path);
        assert_eq!(found.into_values().collect::<Vec<_>>(), [record(Outcome::DidNotBuild)]);
    }
}
