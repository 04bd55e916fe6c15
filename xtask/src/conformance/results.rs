//! Results of specifications, and the exceptions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The result of one specification.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Full name.
    pub name: String,
    /// ginkgo's word for the outcome: passed, failed, timedout, panicked, interrupted, skipped.
    pub state: String,
    /// Time that it took.
    pub seconds: f64,
    /// First line of the failure or of the reason to skip it, if any, and the line of source that reports it.
    pub failure: String,
}

impl Record {
    /// Whether the specification has passed.
    pub fn passed(&self) -> bool {
        self.state == "passed"
    }

    /// Whether the specification has skipped itself.
    pub fn skipped(&self) -> bool {
        self.state == "skipped"
    }

    fn from_line(line: &str) -> Option<Record> {
        let json: Value = serde_json::from_str(line).ok()?;
        let text = |field: &str| json[field].as_str().unwrap_or_default().to_owned();
        let name = match text("name").trim() {
            "" => PREPARATION.to_owned(),
            name => name.to_owned(),
        };
        let failure = text("failure");
        let failure = failure.lines().map(str::trim).find(|line| !line.is_empty());
        let at = text("at");
        let at = at.rsplit_once('/').map_or(at.as_str(), |(_, file)| file);
        Some(Record {
            state: json["state"].as_str()?.to_owned(),
            seconds: json["seconds"].as_f64()?,
            failure: failure.map(|failure| format!("{failure} ({at})")).unwrap_or_default(),
            name,
        })
    }
}

/// Name of what the suite does before and after the specifications, which has none.
const PREPARATION: &str = "preparation of the suite";

/// Reads a file of results: the last result of each specification, by name, or that it was skipped each time. The preparation of the suite
/// is one of them if its last result is a failure.
pub fn read(path: &Path) -> Vec<Record> {
    parse(&fs::read_to_string(path).unwrap_or_default())
}

/// Number of results in a file, earlier ones of the same specification included.
pub fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// Number of specifications that ran, from the runner's summary: `Ran 3 of 765 Specs in 1.2 seconds`, or, if none
/// failed, the line of the suite: `[1] Kubernetes e2e suite - 4/765 specs - 2 procs S•S•• SUCCESS! 1.2s`. There, 4
/// were selected, of which one was skipped when it began, for example for lack of nodes in a second zone.
pub fn counts_of_line(line: &str) -> Option<usize> {
    if let Some(ran) = line.trim().strip_prefix("Ran ") {
        let (count, rest) = ran.split_once(" of ")?;
        return if rest.contains(" Specs in ") { count.parse().ok() } else { None };
    }
    let (before, _) = line.split_once(" SUCCESS! ")?;
    let (_, specifications) = before.split_once(" specs - ")?;
    Some(specifications.matches('•').count())
}

fn parse(text: &str) -> Vec<Record> {
    let mut records: BTreeMap<String, Record> = BTreeMap::new();
    for record in text.lines().filter_map(Record::from_line) {
        // On another cluster it ran.
        if !record.skipped() || !records.contains_key(&record.name) {
            records.insert(record.name.clone(), record);
        }
    }
    records.into_values().filter(|record| record.name != PREPARATION || !record.passed()).collect()
}

/// Specifications that may fail, with the reason.
pub struct Exceptions {
    /// Start of the name, and the reason.
    entries: Vec<(String, String)>,
}

impl Exceptions {
    /// Reads the file of exceptions: a line with the start of a name, then an indented line with
    /// the reason. Empty lines and `#` comments are ignored.
    ///
    /// # Errors
    /// When the file cannot be read, or a name has no reason.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut entries: Vec<(String, String)> = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            if !line.starts_with(' ') {
                entries.push((line.trim_end().to_owned(), String::new()));
                continue;
            }
            let (_, reason) = entries.last_mut().context("a reason before the first name")?;
            if !reason.is_empty() {
                reason.push(' ');
            }
            reason.push_str(line.trim());
        }
        for (name, reason) in &entries {
            ensure!(!reason.is_empty(), "{name}: no reason");
        }
        Ok(Self { entries })
    }

    /// The reason why a specification may fail.
    fn reason(&self, name: &str) -> Option<&str> {
        let entry = self.entries.iter().find(|(start, _)| name.starts_with(start.as_str()));
        entry.map(|(_, reason)| reason.as_str())
    }
}

/// What a set of results says.
#[derive(Default)]
pub struct Summary<'a> {
    passed: usize,
    unexpected: Vec<&'a Record>,
    excepted: Vec<(&'a Record, &'a str)>,
    skipped: Vec<&'a Record>,
}

impl<'a> Summary<'a> {
    /// Sorts results.
    pub fn of(records: &'a [Record], exceptions: &'a Exceptions) -> Self {
        let mut summary = Summary::default();
        for record in records {
            match exceptions.reason(&record.name) {
                _ if record.passed() => summary.passed += 1,
                _ if record.skipped() => summary.skipped.push(record),
                Some(reason) => summary.excepted.push((record, reason)),
                None => summary.unexpected.push(record),
            }
        }
        summary
    }

    /// Number of specifications that failed and are not exceptions.
    pub fn unexpected(&self) -> usize {
        self.unexpected.len()
    }

    /// The results as text.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for record in &self.unexpected {
            let _ = writeln!(text, "  {:<8} {}", record.state, record.name);
            let _ = writeln!(text, "           {} after {:.0} s", record.failure, record.seconds);
        }
        for (record, reason) in &self.excepted {
            let _ = writeln!(text, "  excepted {}\n           {reason}", record.name);
        }
        for record in &self.skipped {
            let _ = writeln!(text, "  skipped  {}\n           {}", record.name, record.failure);
        }
        let (failed, excepted) = (self.unexpected.len(), self.excepted.len());
        let (passed, skipped) = (self.passed, self.skipped.len());
        let _ = writeln!(
            text,
            "  {passed} passed, {failed} failed, {excepted} excepted, {skipped} skipped themselves"
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"{"name":"a b","state":"failed","seconds":1.5,"failure":"\n broken\nmore","at":"x/y/service.go:7"}
{"name":"","state":"passed","seconds":1}
{"name":"c","state":"passed","seconds":2}
{"name":"inco"#;

    #[test]
    fn last_result_of_each_specification_counts() {
        let records = parse(TWO);
        assert_eq!(records.len(), 2, "{records:?}");
        let failed = parse(r#"{"name":"","state":"failed","seconds":1}"#);
        assert_eq!(failed[0].name, PREPARATION);
        assert!(!records[0].passed());
        assert_eq!(records[0].failure, "broken (service.go:7)");
        let again =
            parse(&format!("{TWO}\n{{\"name\":\"a b\",\"state\":\"passed\",\"seconds\":1}}"));
        assert!(again.iter().all(Record::passed), "{again:?}");
    }

    #[test]
    fn summary_of_the_runner_has_the_number_of_specifications() {
        assert_eq!(counts_of_line("Ran 126 of 765 Specs in 0.013 seconds"), Some(126));
        assert_eq!(counts_of_line("Ran out of memory"), None);
        let suite = "[1795753339] Kubernetes e2e suite - 45/765 specs - 2 procs SS•S••";
        assert_eq!(counts_of_line(&format!("{suite} SUCCESS! 17m59.7s ")), Some(3));
        assert_eq!(counts_of_line(suite), None, "it has not ended");
    }

    #[test]
    fn exception_needs_a_reason_and_covers_its_name_only() {
        assert!(Exceptions::parse("name\n").is_err());
        assert!(Exceptions::parse("  reason\n").is_err());
        let exceptions = Exceptions::parse("# why\na\n  no image\n  here\n").expect("valid");
        assert_eq!(exceptions.reason("a b"), Some("no image here"));
        assert_eq!(exceptions.reason("c"), None);
        let records = parse(TWO);
        assert_eq!(Summary::of(&records, &exceptions).unexpected(), 0);
        let none = Exceptions::parse("").expect("valid");
        let summary = Summary::of(&records, &none);
        assert_eq!(summary.unexpected(), 1);
        let line = "  1 passed, 1 failed, 0 excepted, 0 skipped themselves\n";
        assert!(summary.table().ends_with(line));
    }

    #[test]
    fn specification_that_skips_itself_is_listed_with_its_reason_until_it_runs() {
        let skipped = r#"{"name":"c","state":"skipped","seconds":0,"failure":"one zone","at":"x/hints.go:3"}"#;
        let none = Exceptions::parse("").expect("valid");
        let records = parse(skipped);
        let table = Summary::of(&records, &none).table();
        assert!(table.contains("skipped  c\n           one zone (hints.go:3)\n"), "{table}");
        assert!(
            table.ends_with("  0 passed, 0 failed, 0 excepted, 1 skipped themselves\n"),
            "{table}"
        );
        assert_eq!(Summary::of(&records, &none).unexpected(), 0);
        for text in [format!("{TWO}\n{skipped}"), format!("{skipped}\n{TWO}")] {
            let records = parse(&text);
            assert!(records.iter().any(|record| record.name == "c" && record.passed()), "{text}");
        }
    }
}
