//! `cargo xtask test`: every level of tests, or one, each with a closing line that CI reads.
//!
//! `<level>: N passed, N failed`, with `, N skipped` where some were. A level in which nothing
//! ran has failed: silence is not success.

mod level;
mod tally;

use crate::cache::Cache;
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::process::ExitCode;
use std::time::Instant;
use tally::Tally;

/// Options of `cargo xtask test`.
#[derive(Args)]
pub struct Options {
    /// Only this level
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// Leave the cluster standing that the cluster level made
    #[arg(long)]
    keep: bool,
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// The levels, from the fastest to the most real.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// Format, lints, pure functions
    Unit,
    /// The real eBPF programs by BPF_PROG_TEST_RUN
    Packet,
    /// CNI binary and agent between network namespaces
    Netns,
    /// A kind cluster
    Cluster,
}

impl Level {
    const ALL: [Level; 4] = [Level::Unit, Level::Packet, Level::Netns, Level::Cluster];

    fn name(self) -> &'static str {
        match self {
            Level::Unit => "unit",
            Level::Packet => "packet",
            Level::Netns => "netns",
            Level::Cluster => "cluster",
        }
    }
}

/// Runs the levels asked for; the exit code tells whether all went well.
pub fn run(cache: &Cache, options: &Options) -> Result<ExitCode> {
    crate::setup::require_root()?;
    let levels = options.level.map_or_else(|| Level::ALL.to_vec(), |level| vec![level]);
    let mut all_well = true;
    let mut closing = Vec::new();
    for level in levels {
        println!("\n=== {}", level.name());
        let began = Instant::now();
        let tally = level::run(cache, level, options).unwrap_or_else(|error| {
            eprintln!("{}: {error:#}", level.name());
            Tally { failed: 1, ..Tally::default() }
        });
        let tally = tally.or_nothing_ran();
        all_well &= tally.failed == 0;
        println!("    {}", crate::progress::time(began.elapsed()));
        println!("{}: {tally}", level.name());
        closing.push(format!("    {:<8} {tally}", level.name()));
    }
    if closing.len() > 1 {
        println!("\n=== all\n{}", closing.join("\n"));
    }
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
