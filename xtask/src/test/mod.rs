//! `cargo xtask test`: the tests of every level, or of one.
//!
//! Each level ends with a line for CI, `<level>: N passed, N failed[, N skipped]`. A level in
//! which no test ran has failed. A level has a time budget, see [`Level::budget`]: a level
//! over its budget prints a warning, over twice its budget it fails, and at three times its budget
//! its processes are killed.
//!
//! Contract with the tests, by environment variables:
//! - `SLUICE_SKIP_FILE`: a test that cannot run on this machine appends one line, `name: reason`,
//!   and returns. It is counted as skipped instead of passed. A line `SKIPPED name: reason` on
//!   stdout has the same effect.
//! - `SLUICE_TEST_ARTEFACTS`: a folder for logs, map dumps and captures of failed tests. It is
//!   emptied before the run and listed after it.

mod artefacts;
mod level;
pub mod outcomes;
mod runner;
mod tally;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use self::artefacts::Artefacts;
use self::runner::Runner;
pub use self::tally::Tally;
use crate::cache::Cache;
use crate::{progress, setup};

pub use self::level::CLUSTER_PHASES;

/// Time budget of a level with `--cases`: long enough to have no effect.
const WITH_CASES: Duration = Duration::from_secs(24 * 60 * 60);

/// Options of `cargo xtask test`.
#[derive(Args)]
pub struct Options {
    /// Run only this level
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// Keep the cluster that the cluster level creates
    #[arg(long)]
    keep: bool,
    /// Multiply the time budgets, for slow machines
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, env = "SLUICE_BUDGET_FACTOR")]
    budget_factor: f64,
    /// Random cases of each property and oracle, in place of their defaults; without time budgets
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    cases: Option<u32>,
    /// Run only tests whose name contains this
    filter: Option<String>,
}

/// The levels, from the fastest to the most realistic.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// Format, lints, repository rules, dependencies, unit tests
    Unit,
    /// The eBPF programs under BPF_PROG_TEST_RUN
    Packet,
    /// CNI binary and agent in network namespaces
    Netns,
    /// A kind cluster
    Cluster,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Unit => "unit",
            Level::Packet => "packet",
            Level::Netns => "netns",
            Level::Cluster => "cluster",
        }
    }

    /// Duration of the level on two cores, without installations, builds and the creation of a
    /// cluster.
    fn budget(self) -> Duration {
        let minutes = match self {
            Level::Unit => 4,
            Level::Packet => 2,
            Level::Netns => 6,
            Level::Cluster => 10,
        };
        Duration::from_secs(minutes * 60)
    }
}

/// Runs the levels; the exit code is a failure if any level failed.
///
/// # Errors
/// When the machine is not supported or the artefact folder cannot be emptied.
pub fn run(cache: &Cache, options: &Options) -> Result<ExitCode> {
    // The other levels run on the Docker of the machine, or check for root when they need it.
    if matches!(options.level, None | Some(Level::Packet | Level::Netns)) {
        setup::require_root()?;
    } else {
        setup::require_platform()?;
    }
    anyhow::ensure!(options.budget_factor > 0.0, "--budget-factor must be greater than 0");
    let artefacts = Artefacts::clear()?;
    let levels =
        options.level.map_or_else(|| Level::value_variants().to_vec(), |level| vec![level]);
    let mut failed = false;
    let mut closing = Vec::new();
    for level in levels {
        println!("\n=== {}", level.name());
        let budget = match options.cases {
            None => level.budget().mul_f64(options.budget_factor),
            Some(_) => WITH_CASES,
        };
        let mut runner = Runner::new(&artefacts, level.name(), budget, options.cases)?;
        let tally = level::run(cache, level, options, &mut runner).unwrap_or_else(|error| {
            eprintln!("{}: {error:#}", level.name());
            Tally::FAILURE
        });
        let mut tally = runner.without_skipped(tally)?.or_nothing_ran();
        runner.write_outcomes(options.filter.is_none())?;
        if options.filter.is_none() {
            tally = tally + judge(level, runner.time(), budget);
        }
        println!(
            "    {} of {}, preparation {}",
            progress::time(runner.time()),
            progress::time(budget),
            progress::time(runner.preparation())
        );
        println!("{}: {tally}", level.name());
        failed |= tally.failed > 0;
        closing.push(format!("    {:<8} {tally}", level.name()));
    }
    if closing.len() > 1 {
        println!("\n=== all\n{}", closing.join("\n"));
    }
    artefacts.list();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Compares a level's time with its budget: a warning, or a failure beyond twice the budget.
fn judge(level: Level, time: Duration, budget: Duration) -> Tally {
    if time <= budget {
        return Tally::default();
    }
    let failure = time > 2 * budget;
    eprintln!(
        "{}: {}: {} is over the budget of {}",
        if failure { "error" } else { "warning" },
        level.name(),
        progress::time(time),
        progress::time(budget)
    );
    if failure { Tally::FAILURE } else { Tally::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_twice_the_budget_is_a_failure() {
        let budget = Duration::from_secs(60);
        for (seconds, expected) in
            [(60, Tally::default()), (120, Tally::default()), (121, Tally::FAILURE)]
        {
            let time = Duration::from_secs(seconds);
            assert_eq!(judge(Level::Unit, time, budget), expected, "{seconds} s");
        }
    }
}
