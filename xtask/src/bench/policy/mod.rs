//! `cargo xtask bench policy`: Sluice with NetworkPolicies that select the measured pods.
//!
//! ```text
//! packets, ADD (namespaces of their own) --> a cluster of two nodes: memory, create all policies,
//!   rounds (rates), drops, changes, memory, many pods at once --> report
//! ```
//! All policies are there during all rounds. A label of the pods says how many of them select the pods: during the
//! rounds, there is a [set of pods](sets) for each number, and those that are compared are measured in turns.
//! Rates are compared within a round only. Output: the report on the terminal, and `policy.json` and `policy.md` in
//! target/bench.

mod add;
mod changes;
mod drops;
mod policies;
mod report;
mod sets;
mod starts;
mod subject;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::report::{Case, Figures, Rows, Series};
use self::sets::Sets;
use self::subject::Subject;
use super::cluster::{self, BenchCluster};
use super::report::{Load, Network};
use super::{objects, packets, quiet};
use crate::cache::Cache;
use crate::{progress, setup};

/// What is measured: the load, and whether client and server are on one node.
const GROUPS: [(Load, bool); 4] = [
    (Load::RequestResponse, true),
    (Load::RequestResponse, false),
    (Load::Connect, true),
    (Load::Connect, false),
];

/// Options of `cargo xtask bench policy`.
#[derive(Args)]
pub struct Options {
    /// Numbers of policies that select a pod; 0 is always measured
    #[arg(long, value_delimiter = ',', num_args = 1.., default_values_t = [0, 1, 100, 10_000])]
    sizes: Vec<usize>,
    /// Rounds, and up to as many more as the next multiple of the number of sizes: each set of pods has each
    /// number of policies equally often; fewer than six give no confidence interval
    #[arg(long, default_value_t = 12)]
    rounds: usize,
    /// Duration of one measurement in seconds, in turns of 20 ms with those of the other sizes
    #[arg(long, default_value_t = 1)]
    seconds: u32,
    /// Pods, one after the other, from ADD to the first allowed packet, for each number of policies
    #[arg(long, default_value_t = 200)]
    adds: usize,
    /// Dropped packets, each until its line in `sluice drops --follow`
    #[arg(long, default_value_t = 50)]
    drops: usize,
    /// Changes of a label, and as many of a policy
    #[arg(long, default_value_t = 100)]
    changes: usize,
    /// Pods that start at once, on two nodes
    #[arg(long, default_value_t = 200)]
    pods: usize,
    /// Packets of each case in `bench packets`
    #[arg(long, default_value_t = 250_000)]
    runs: u32,
}

/// Measures, prints the report and writes its files.
///
/// # Errors
/// When the sizes are not valid, a build fails, the cluster does not start, or a file cannot be written. The
/// cluster is removed nevertheless.
pub fn run(cache: &Cache, options: &Options) -> Result<ExitCode> {
    setup::require_root()?;
    let sizes = sizes(&options.sizes)?;
    let mut figures = Figures::default();
    let measured = measure(cache, options, &sizes, &mut figures);
    // What was measured before a failure is not lost.
    println!("\n{}", figures.markdown());
    let written = write(&figures);
    cluster::down(cache, Network::Sluice)?;
    measured.and(written).map(|()| ExitCode::SUCCESS)
}

/// The sizes in ascending order, with 0.
fn sizes(requested: &[usize]) -> Result<Vec<usize>> {
    let mut sizes = requested.to_vec();
    sizes.push(0);
    sizes.sort_unstable();
    sizes.dedup();
    let valid = sizes.last().is_some_and(|last| (1..=policies::MAX).contains(last));
    ensure!(valid, "--sizes: one or more numbers up to {}, not only 0", policies::MAX);
    Ok(sizes)
}

fn measure(cache: &Cache, options: &Options, sizes: &[usize], figures: &mut Figures) -> Result<()> {
    figures.packets = packets::figures(cache, options.runs)?;
    figures.adds = add::measure(cache, sizes, options.adds)?;
    write(figures)?;
    let program = cluster::load_program(cache)?;
    let archive = cluster::load_image(&program)?;
    let mut subject = Subject::new(BenchCluster::up(cache, Network::Sluice, &archive)?)?;
    subject.cluster.wait_reachable()?;
    figures.memory.push(subject.memory("no policies".to_owned())?);
    for &size in sizes.iter().filter(|size| **size > 0) {
        let policy = |number| vec![policies::policy(size, number)];
        objects::create(&subject.cluster, &format!("{size} policies"), 0..size, policy)?;
    }
    for &size in sizes {
        subject.select(size)?;
        figures.rows.push(Rows { policies: size, tables: subject.rows()? });
    }
    subject.select(0)?;
    let mut sets = Sets::create(&subject, sizes)?;
    quiet::wait()?;
    rounds(options, sizes, &mut sets, figures)?;
    sets.remove()?;
    write(figures)?;

    let smallest = sizes.iter().copied().find(|size| *size > 0).unwrap_or_default();
    subject.select(smallest)?;
    figures.drops = drops::measure(&subject, smallest, options.drops, &mut figures.failures)?;
    let largest = sizes.last().copied().unwrap_or_default();
    subject.select(largest)?;
    let failures = &mut figures.failures;
    figures.changes = changes::measure(&subject, &program, largest, options.changes, failures)?;
    let name =
        format!("{largest} policies select the pods, {} in all", sizes.iter().sum::<usize>());
    figures.memory.push(subject.memory(name)?);
    write(figures)?;
    let failures = &mut figures.failures;
    figures.starts = Some(starts::measure(&subject, &program, largest, options.pods, failures)?);
    Ok(())
}

/// Takes the samples of all rounds.
fn rounds(
    options: &Options,
    sizes: &[usize],
    sets: &mut Sets<'_>,
    figures: &mut Figures,
) -> Result<()> {
    let duration = Duration::from_secs(u64::from(options.seconds));
    let series = |case| Series { case, samples: Vec::new() };
    figures.series = GROUPS.into_iter().flat_map(|group| cases(group, sizes).map(series)).collect();
    let rounds = sets::rounds(options.rounds, sizes.len());
    for round in 0..rounds {
        let start = Instant::now();
        let name = format!("round {} of {rounds}", round + 1);
        let mut reporter = progress::Reporter::new(&name);
        for (load, same_node) in GROUPS {
            let samples = sets.sample(round, load, same_node, duration);
            if let Err(error) = &samples {
                figures.failures.push(format!("{name}: {error:#}"));
            }
            for (n, case) in cases((load, same_node), sizes).enumerate() {
                let sample = samples.as_ref().ok().and_then(|samples| samples.get(n).copied());
                let entry = figures.series.iter_mut().find(|series| series.case == case);
                entry.context("a series for every case")?.samples.push(sample);
            }
            reporter.report(|| load.label().to_owned());
        }
        let failures = format!("{} failures", figures.failures.len());
        progress::line(&name, &failures, start.elapsed());
    }
    Ok(())
}

/// The cases of a load and place, with every number of policies, which are measured in turns.
fn cases((load, same_node): (Load, bool), sizes: &[usize]) -> impl Iterator<Item = Case> + use<'_> {
    sizes.iter().map(move |&policies| Case { policies, load, same_node })
}

/// Writes the files of the report.
fn write(figures: &Figures) -> Result<()> {
    super::write_report("policy", &figures.json(), &figures.markdown()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_sorted_with_none_first_and_checked() {
        assert_eq!(sizes(&[100, 1, 100]).ok(), Some(vec![0, 1, 100]));
        for invalid in [&[][..], &[0], &[20_000]] {
            assert!(sizes(invalid).is_err(), "{invalid:?}");
        }
    }
}
