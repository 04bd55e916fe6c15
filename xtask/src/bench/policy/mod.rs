//! `cargo xtask bench policy`: Sluice with NetworkPolicies that select the measured pods.
//!
//! ```text
//! packets, ADD (namespaces of their own) --> a cluster of two nodes: memory, create all policies,
//!   rounds (rates), changes, memory, many pods at once --> report
//! ```
//! All policies are there during all rounds. A label of the pods says how many of them select the pods, so
//! that a round takes every case once with each number, in an order that changes, with the same pods; rates
//! are compared within a round only. Output: the report on the terminal, and `policy.json` and `policy.md` in
//! target/bench.

mod add;
mod changes;
mod policies;
mod report;
mod starts;
mod subject;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::report::{Case, Figures, Rows, Series};
use self::subject::Subject;
use super::cluster::{self, BenchCluster};
use super::report::{Load, Network};
use super::{objects, packets, quiet};
use crate::cache::Cache;
use crate::{progress, setup};

/// Loads that are measured.
const LOADS: [Load; 2] = [Load::RequestResponse, Load::Connect];

/// Options of `cargo xtask bench policy`.
#[derive(Args)]
pub struct Options {
    /// Numbers of policies that select a pod; 0 is always measured
    #[arg(long, value_delimiter = ',', num_args = 1.., default_values_t = [0, 1, 100, 10_000])]
    sizes: Vec<usize>,
    /// Rounds; fewer than six give no confidence interval
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Duration of one measurement in seconds
    #[arg(long, default_value_t = 1)]
    seconds: u32,
    /// Pods, one after the other, from ADD to the first allowed packet, for each number of policies
    #[arg(long, default_value_t = 200)]
    adds: usize,
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
    quiet::wait()?;
    rounds(options, sizes, &mut subject, figures)?;
    write(figures)?;

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
    subject: &mut Subject,
    figures: &mut Figures,
) -> Result<()> {
    let duration = Duration::from_secs(u64::from(options.seconds));
    figures.series =
        order(0, sizes).into_iter().map(|case| Series { case, samples: Vec::new() }).collect();
    for round in 0..options.rounds {
        let start = Instant::now();
        let name = format!("round {} of {}", round + 1, options.rounds);
        let mut reporter = progress::Reporter::new(&name);
        for case in order(round, sizes) {
            let sample = subject.sample(case, duration);
            if let Err(error) = &sample {
                figures.failures.push(format!("{name}: {error:#}"));
            }
            let entry = figures.series.iter_mut().find(|series| series.case == case);
            entry.context("a series for every case")?.samples.push(sample.ok());
            reporter.report(|| case.label());
        }
        let failures = format!("{} failures", figures.failures.len());
        progress::line(&name, &failures, start.elapsed());
    }
    Ok(())
}

/// The order of one round: every load and place with every number of policies. Samples that are compared
/// follow each other; the first number changes from round to round.
fn order(round: usize, sizes: &[usize]) -> Vec<Case> {
    let mut order = Vec::new();
    for load in LOADS {
        for same_node in [true, false] {
            for n in 0..sizes.len() {
                if let Some(&policies) = sizes.get((n + round) % sizes.len()) {
                    order.push(Case { policies, load, same_node });
                }
            }
        }
    }
    order
}

/// Writes the files of the report.
fn write(figures: &Figures) -> Result<()> {
    super::write_report("policy", &figures.json(), &figures.markdown()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_takes_every_sample_once_and_starts_with_another_number() {
        let sizes = [0, 1, 100];
        let mut first = Vec::new();
        for round in 0..3 {
            let order = order(round, &sizes);
            assert_eq!(order.len(), 12);
            for (number, case) in order.iter().enumerate() {
                assert!(!order[..number].contains(case), "round {round}, {}", case.label());
            }
            first.push(order[0].policies);
        }
        assert_eq!(first, sizes);
    }

    #[test]
    fn sizes_are_sorted_with_none_first_and_checked() {
        assert_eq!(sizes(&[100, 1, 100]).ok(), Some(vec![0, 1, 100]));
        for invalid in [&[][..], &[0], &[20_000]] {
            assert!(sizes(invalid).is_err(), "{invalid:?}");
        }
    }
}
