//! Generated mutations of the pure crates, by cargo-mutants.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::results::{Entry, Outcome};
use super::scratch::folder;
use super::shard::Shard;
use crate::cache::{Cache, checkout};
use crate::{process, setup};

/// The pure crates.
pub const PACKAGES: [&str; 3] = ["sluice-core", "sluice-packet", "sluice-abi"];
/// Code of tests: what generates objects, what judges the result, what reads cases.
const EXCLUDED: [&str; 4] = [
    "agent/core/src/oracle/**",
    "agent/core/src/properties/**",
    "agent/core/src/cases/**",
    "agent/core/src/generate/mod.rs",
];
/// Exit codes of a complete run: all caught, some missed, some timed out.
const COMPLETE: [i32; 3] = [0, 2, 3];
/// Deadline of a run.
const DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs cargo-mutants on `packages`, or on all pure crates if there are none, and returns the
/// outcomes.
///
/// # Errors
/// When the installation fails, the tests fail without a mutation, or the results cannot be read.
pub fn run(cache: &Cache, packages: &[String], shard: Option<Shard>) -> Result<Vec<Entry>> {
    let program = setup::cargo_mutants(cache)?;
    let packages: Vec<&str> = match packages {
        [] => PACKAGES.to_vec(),
        chosen => chosen.iter().map(String::as_str).collect(),
    };
    let mut name = format!("pure-{}", packages.join("-"));
    if let Some(Shard { k, n }) = shard {
        name += &format!("-{k}-of-{n}");
    }
    let output = folder().join(&name);
    fs::create_dir_all(&output)?;
    let mut command = Command::new(program);
    command
        .current_dir(checkout())
        // Without --timeout, the deadline of a mutation is five times the time of the tests.
        .args(["mutants", "--no-shuffle"])
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .args(EXCLUDED.iter().flat_map(|pattern| ["--exclude", pattern]))
        .arg("--output")
        .arg(&output);
    if let Some(shard) = shard {
        // cargo-mutants counts shards from 0.
        command.args(["--shard", &format!("{}/{}", shard.k - 1, shard.n)]);
    }
    let (status, log) =
        process::run_quietly("cargo-mutants", &mut command, &folder().join("logs"), DEADLINE)?;
    ensure!(
        status.code().is_some_and(|code| COMPLETE.contains(&code)),
        "cargo-mutants exited with {status}; log: {}",
        log.display()
    );
    let path = output.join("mutants.out/outcomes.json");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    outcomes(&serde_json::from_slice(&text)?)
}

/// The outcomes of mutations in cargo-mutants' `outcomes.json`, without that of the unmutated tree.
fn outcomes(json: &Value) -> Result<Vec<Entry>> {
    let list = json["outcomes"].as_array().context("outcomes.json has no list of outcomes")?;
    let mut entries = Vec::new();
    for item in list {
        let mutant = &item["scenario"]["Mutant"];
        if mutant.is_null() {
            continue;
        }
        let summary = item["summary"].as_str().unwrap_or_default();
        let phases = item["phase_results"].as_array().map(Vec::as_slice).unwrap_or_default();
        let seconds: f64 = phases.iter().filter_map(|phase| phase["duration"].as_f64()).sum();
        entries.push(Entry {
            group: mutant["package"].as_str().unwrap_or("?").to_owned(),
            name: mutant["name"].as_str().unwrap_or("?").to_owned(),
            outcome: match summary {
                "CaughtMutant" => Some(Outcome::Caught),
                "MissedMutant" => Some(Outcome::Survived),
                "Timeout" => Some(Outcome::TimedOut),
                "Unviable" => Some(Outcome::DidNotBuild),
                _ => None,
            },
            duration: Duration::try_from_secs_f64(seconds).unwrap_or_default(),
        });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_of_mutants_are_read() {
        let mutant = |name: &str, summary: &str| {
            serde_json::json!({
                "scenario": {"Mutant": {"name": name, "package": "sluice-core"}},
                "summary": summary,
                "phase_results": [{"duration": 1.5}, {"duration": 0.5}],
            })
        };
        let baseline = serde_json::json!({"scenario": "Baseline", "summary": "Success"});
        let summaries = ["CaughtMutant", "MissedMutant", "Timeout", "Unviable", "Unknown"];
        let mut list = vec![baseline];
        list.extend(summaries.iter().map(|summary| mutant("a.rs:1: replace + with -", summary)));
        let entries = outcomes(&serde_json::json!({"outcomes": list})).expect("outcomes");
        let found: Vec<Option<Outcome>> = entries.iter().map(|entry| entry.outcome).collect();
        assert_eq!(
            found,
            [
                Some(Outcome::Caught),
                Some(Outcome::Survived),
                Some(Outcome::TimedOut),
                Some(Outcome::DidNotBuild),
                None
            ]
        );
        assert!(entries.iter().all(|entry| entry.group == "sluice-core"));
        assert!(entries.iter().all(|entry| entry.duration == Duration::from_secs(2)));
        assert!(outcomes(&serde_json::json!({})).is_err());
    }
}
