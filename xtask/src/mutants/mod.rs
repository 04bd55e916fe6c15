//! `cargo xtask mutants`: do the tests fail when the product is wrong?
//!
//! ```text
//! list      mutations that are written by hand, xtask/mutations/*.txt
//! scratch   a git worktree in which one mutation at a time is applied and tested
//! pure      mutations that cargo-mutants generates for the pure crates
//! results   target/mutants/results.jsonl and the score table       shard   part of a run
//! ```
//! A run takes hours and is not part of CI. It can be interrupted: a mutation with a recorded
//! result is skipped until the mutation or its file changes; one that survived runs again, because
//! tests may have been added. The checks run without a mutation once for each commit, and the first
//! one in each run. The exit code is a failure below
//! [`REQUIRED_PERCENT`] percent of caught mutations.

mod list;
mod pure;
mod results;
mod scratch;
mod shard;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;

use self::list::{Check, Level, Mutation};
use self::results::{Entry, Outcome, REQUIRED_PERCENT, Record, Score};
use self::scratch::Scratch;
use self::shard::Shard;
use crate::cache::Cache;
use crate::progress;

/// Factor between the deadline of a mutation and that of the unmutated tree, whose check also
/// compiles every dependency.
const FIRST_BUILD: u32 = 3;

/// Options of `cargo xtask mutants`.
#[derive(Args)]
pub struct Options {
    /// Run cargo-mutants on the pure crates instead of the listed mutations
    #[arg(long, conflicts_with_all = ["only", "level", "again", "check"])]
    pure: bool,
    /// Run cargo-mutants on this pure crate only; can be repeated
    #[arg(long, value_name = "NAME", requires = "pure", value_parser = pure::PACKAGES)]
    package: Vec<String>,
    /// Run part K of N
    #[arg(long, value_name = "K/N")]
    shard: Option<Shard>,
    /// Run only this mutation; can be repeated
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// Run only the checks of this level
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// Run mutations that have a result again
    #[arg(long)]
    again: bool,
    /// Deadline of one check in minutes
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Only verify that every mutation fits its file
    #[arg(long)]
    check: bool,
}

/// Runs mutations and prints the score.
///
/// # Errors
/// When the lists are malformed, the scratch tree cannot be created, or the tests fail without a
/// mutation.
pub fn run(cache: &Cache, options: &Options) -> Result<ExitCode> {
    if options.check {
        return check();
    }
    let deadline = Duration::from_secs(options.minutes * 60);
    let (entries, may_not_build) = if options.pure {
        (pure::run(cache, &options.package, options.shard)?, true)
    } else {
        (run_listed(options, deadline)?, false)
    };
    println!("\n{}", results::table(&entries));
    let score = Score::of(&entries);
    if score.suffices() && (may_not_build || score.unbuilt == 0) {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "error: at least {REQUIRED_PERCENT} % must be caught, and listed mutations must build"
    );
    Ok(ExitCode::FAILURE)
}

fn check() -> Result<ExitCode> {
    let mutations = list::all()?;
    let misfits = list::misfits(&mutations);
    for misfit in &misfits {
        eprintln!("error: {misfit}");
    }
    println!("{} mutations, {} do not fit their files", mutations.len(), misfits.len());
    Ok(if misfits.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the selected mutations that have no result, and returns the results of all selected.
fn run_listed(options: &Options, deadline: Duration) -> Result<Vec<Entry>> {
    let selected = select(list::all()?, &options.only, options.level, options.shard)?;
    let scratch = Scratch::open()?;
    let path = scratch::folder().join("results.jsonl");
    let mut known = results::read(&path);
    let mut pending = Vec::new();
    for mutation in &selected {
        let hash = mutation.hash(&scratch.read(&mutation.path)?);
        let holds = |record: &Record| record.hash == hash && record.outcome != Outcome::Survived;
        if options.again || !known.get(&mutation.id).is_some_and(holds) {
            known.remove(&mutation.id);
        }
        if !known.contains_key(&mutation.id) {
            pending.push((mutation, hash));
        }
    }
    println!("  {} mutations, {} to run", selected.len(), pending.len());
    let checks: BTreeSet<&Check> =
        pending.iter().flat_map(|(mutation, _)| &mutation.checks).collect();
    for (number, check) in checks.into_iter().enumerate() {
        // At least one check per run: on a broken machine, every mutation would count as caught.
        let record = known.get(&format!("unmutated {check}"));
        let passed = record.is_some_and(|record| record.hash == scratch.commit());
        if number == 0 || options.again || !passed {
            verify_unmutated(&scratch, check, deadline, &path)?;
        }
    }
    for (mutation, hash) in pending {
        let record = run_one(&scratch, mutation, hash, deadline, &path)?;
        known.insert(record.id.clone(), record);
    }
    let entry = |mutation: &Mutation| {
        let record = known.get(&mutation.id);
        Entry {
            group: mutation.group.clone(),
            name: format!("{} ({})", mutation.id, mutation.path),
            outcome: record.map(|record| record.outcome),
            duration: record.map(|record| record.duration).unwrap_or_default(),
        }
    };
    Ok(selected.iter().map(entry).collect())
}

/// Runs a check without a mutation and records that it passed with this commit: a test that always
/// fails would count every mutation as caught.
fn verify_unmutated(
    scratch: &Scratch,
    check: &Check,
    deadline: Duration,
    results: &Path,
) -> Result<()> {
    let start = Instant::now();
    let id = format!("unmutated {check}");
    let hash = scratch.commit().to_owned();
    let outcome = scratch.run(&id, check, deadline * FIRST_BUILD)?;
    ensure!(outcome == Outcome::Survived, "{check} fails without a mutation");
    progress::line(&id, "passed", start.elapsed());
    let duration = start.elapsed();
    results::append(results, &Record { id, hash, outcome, check: check.to_string(), duration })
}

/// Applies one mutation, runs its checks until one fails, and records the result.
fn run_one(
    scratch: &Scratch,
    mutation: &Mutation,
    hash: String,
    deadline: Duration,
    results: &Path,
) -> Result<Record> {
    let start = Instant::now();
    let text = scratch.read(&mutation.path)?;
    scratch.write(&mutation.path, &mutation.apply(&text)?)?;
    let judged = judge(scratch, mutation, deadline);
    scratch.write(&mutation.path, &text)?;
    scratch.clean()?;
    let (outcome, check) = judged?;
    let id = mutation.id.clone();
    let record = Record { id, hash, outcome, check, duration: start.elapsed() };
    results::append(results, &record)?;
    let result = format!("{}: {}", record.check, outcome.name());
    progress::line(&record.id, &result, record.duration);
    Ok(record)
}

fn judge(scratch: &Scratch, mutation: &Mutation, deadline: Duration) -> Result<(Outcome, String)> {
    let (mut outcome, mut last) = (Outcome::Survived, String::new());
    for check in &mutation.checks {
        last = check.to_string();
        outcome = scratch.run(&format!("{} {check}", mutation.id), check, deadline)?;
        if outcome != Outcome::Survived {
            break;
        }
    }
    Ok((outcome, last))
}

/// Selects mutations by name, level and shard. With a level, only the checks of that level remain.
fn select(
    mutations: Vec<Mutation>,
    only: &[String],
    level: Option<Level>,
    shard: Option<Shard>,
) -> Result<Vec<Mutation>> {
    for id in only {
        ensure!(mutations.iter().any(|mutation| mutation.id == *id), "no mutation is named {id}");
    }
    let mut selected = mutations;
    selected.retain(|mutation| only.is_empty() || only.contains(&mutation.id));
    if let Some(level) = level {
        selected.iter_mut().for_each(|mutation| mutation.checks.retain(|c| c.level == level));
        selected.retain(|mutation| !mutation.checks.is_empty());
    }
    let in_shard = |position| shard.is_none_or(|shard| shard.contains(position));
    let selected = selected.into_iter().enumerate().filter(|(position, _)| in_shard(*position));
    Ok(selected.map(|(_, mutation)| mutation).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutation(id: &str, levels: &[Level]) -> Mutation {
        let checks = levels.iter().map(|&level| Check { level, argument: None }).collect();
        let text = String::new;
        let id = id.to_owned();
        Mutation { id, group: text(), checks, path: text(), find: text(), replace: text() }
    }

    fn selected(only: &[&str], level: Option<Level>, shard: Option<Shard>) -> String {
        let mutations = vec![
            mutation("a", &[Level::Unit, Level::Netns]),
            mutation("b", &[Level::Packet]),
            mutation("c", &[Level::Netns]),
        ];
        let only: Vec<String> = only.iter().map(|&id| id.to_owned()).collect();
        let selected = select(mutations, &only, level, shard).expect("known names");
        let texts = selected.iter().map(|m| format!("{}{}", m.id, m.checks.len()));
        texts.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn mutations_are_selected_by_name_level_and_shard() {
        let shard = |k| Some(Shard { k, n: 2 });
        assert_eq!(selected(&[], None, None), "a2 b1 c1");
        assert_eq!(selected(&["b", "c"], None, None), "b1 c1");
        assert_eq!(selected(&[], Some(Level::Netns), None), "a1 c1");
        assert_eq!(selected(&[], None, shard(1)), "a2 c1");
        assert_eq!(selected(&[], None, shard(2)), "b1");
        assert_eq!(selected(&["a", "c"], Some(Level::Netns), shard(2)), "c1");
    }

    #[test]
    fn unknown_name_is_an_error() {
        let error = select(Vec::new(), &["a".to_owned()], None, None).expect_err("unknown");
        assert_eq!(error.to_string(), "no mutation is named a");
    }
}
