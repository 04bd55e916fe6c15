//! `cargo xtask contract`: writes the results of the last runs into docs/CONTRACT.md.
//!
//! The page lists what Kubernetes promises, entry by entry, with the tests that show it. The last
//! column and the line above the tables are written here, from `target/outcomes` and from the
//! results of `cargo xtask conformance`; everything else is written by hand.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{checkout, target};
use crate::test::outcomes::{self, Outcomes};
use crate::{conformance, process};

/// The page.
pub const PAGE: &str = "docs/CONTRACT.md";

/// Start of the line that names the run.
const RUN: &str = "Results: ";

/// The level of upstream's specifications. A name is a part of theirs, and can belong to several.
const UPSTREAM: &str = "upstream";

/// Writes the page.
///
/// # Errors
/// When the page cannot be read or written.
pub fn run() -> Result<()> {
    let path = checkout().join(PAGE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {PAGE}"))?;
    let mut known: BTreeMap<&str, Outcomes> = ["unit", "packet", "netns", "cluster"]
        .into_iter()
        .map(|level| (level, outcomes::read(level)))
        .collect();
    known.insert(UPSTREAM, conformance::outcomes(&target())?);
    let kernel = process::output(Command::new("uname").arg("-r"))?;
    let kernel: String = kernel.split('.').take(2).collect::<Vec<_>>().join(".");
    let day = process::output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let run = format!("{RUN}runs until {day}, Linux {kernel}.");
    let (filled, counts) = fill(&text, &run, &known);
    fs::write(&path, filled).with_context(|| format!("cannot write {PAGE}"))?;
    let counts: Vec<String> = counts.iter().map(|(word, n)| format!("{n} {word}")).collect();
    println!("  {PAGE}: {}", counts.join(", "));
    Ok(())
}

/// The page with a new last column, and the number of entries by result.
fn fill(
    text: &str,
    run: &str,
    known: &BTreeMap<&str, Outcomes>,
) -> (String, BTreeMap<String, usize>) {
    let mut counts = BTreeMap::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let is_entry = line.starts_with('|')
            && cells.len() == 4
            && cells[0].starts_with(|c: char| c.is_ascii_digit());
        if line.starts_with(RUN) {
            lines.push(run.to_owned());
        } else if is_entry {
            let result = judge(cells[2], known);
            *counts.entry(result.to_owned()).or_default() += 1;
            lines.push(format!("| {} | {} | {} | {result} |", cells[0], cells[1], cells[2]));
        } else {
            lines.push(line.to_owned());
        }
    }
    (lines.join("\n") + "\n", counts)
}

/// The result of an entry: that of the worst of its tests.
fn judge(cell: &str, known: &BTreeMap<&str, Outcomes>) -> &'static str {
    let names = named(cell);
    if names.is_empty() {
        return "no test";
    }
    let mut result = "passed";
    for (level, name) in names {
        match known.get(level).and_then(|outcomes| outcome(outcomes, level, name)) {
            Some("passed") => {}
            Some("failed") => return "failed",
            _ => result = "not run",
        }
    }
    result
}

fn outcome<'a>(outcomes: &'a Outcomes, level: &str, name: &str) -> Option<&'a str> {
    if level == UPSTREAM {
        let of_name = outcomes.iter().filter(|(full, _)| full.contains(name));
        let mut of_name = of_name.map(|(_, outcome)| outcome.as_str());
        let first = of_name.next()?;
        return Some(if of_name.any(|outcome| outcome == "failed") { "failed" } else { first });
    }
    // Names of cases have hyphens, those of their functions underscores.
    outcomes.get(&name.replace('-', "_")).map(String::as_str)
}

/// Levels and names in a cell: ``unit `a`, `b`; packet `c` ``.
fn named(cell: &str) -> Vec<(&str, &str)> {
    let mut level = "";
    let mut names = Vec::new();
    for (index, part) in cell.split('`').enumerate() {
        if index % 2 == 1 {
            names.push((level, part));
        } else if let Some(word) = part.split_whitespace().rfind(|word| word.len() > 1) {
            level = word;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> BTreeMap<&'static str, Outcomes> {
        let outcomes = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, o)| ((*name).to_owned(), (*o).to_owned())).collect()
        };
        BTreeMap::from([
            ("unit", outcomes(&[("a", "passed"), ("b", "failed"), ("c_d", "passed")])),
            (
                "upstream",
                outcomes(&[
                    ("[sig-network] Services should work", "passed"),
                    ("[sig-network] Traffic A", "passed"),
                    ("[sig-network] Traffic B", "failed"),
                ]),
            ),
        ])
    }

    #[test]
    fn result_is_that_of_the_worst_test() {
        for (cell, result) in [
            ("unit `a`", "passed"),
            ("unit `a`, `c-d`; upstream `should work`", "passed"),
            ("unit `a`, `b`", "failed"),
            ("unit `a`; upstream `Traffic`", "failed"),
            ("unit `a`; upstream `Traffic A`", "passed"),
            ("unit `a`; packet `a`", "not run"),
            ("unit `a`, `gone`", "not run"),
            ("not built", "no test"),
        ] {
            assert_eq!(judge(cell, &known()), result, "{cell}");
        }
    }

    #[test]
    fn last_column_and_the_line_of_the_run_are_replaced_and_nothing_else() {
        let page = "# C\nResults: none.\n| entry | promise | tests | result |\n|---|---|---|---|\n\
                    | 1.1 | it works | unit `a` | |\n| 1.2 | no | not built | passed |\n";
        let (filled, counts) = fill(page, "Results: today.", &known());
        assert_eq!(
            filled,
            "# C\nResults: today.\n| entry | promise | tests | result |\n|---|---|---|---|\n\
             | 1.1 | it works | unit `a` | passed |\n| 1.2 | no | not built | no test |\n"
        );
        assert_eq!(counts["passed"], 1);
    }
}
