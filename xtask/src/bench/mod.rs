//! `cargo xtask bench`: Sluice, kube-proxy and the bridge plugin, measured in one run.
//!
//! Three clusters of two nodes run side by side. Every round measures each of them under every
//! load, in an order that changes from round to round, so that other load on the machine affects
//! all of them. A claim is about the ratio of two samples of one round, and holds when the whole
//! confidence interval of the median ratio does. Output: the report on the terminal, and
//! `bench.json`, `bench.md` and `bench.svg` in target/bench.

mod aims;
mod cluster;
mod cni;
mod isolated;
mod objects;
mod packets;
mod plot;
mod policy;
mod quiet;
mod report;
mod scale;
mod services;
mod statistics;
mod udp_flows;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use self::cluster::{BenchCluster, Path};
use self::report::{Figures, Load, Network, Series};
use crate::cache::{Cache, target};
use crate::{progress, setup};

/// Attempts of one measurement.
const ATTEMPTS: usize = 3;

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// Rounds; fewer than six give no confidence interval
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Duration of one measurement in seconds
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// Keep the clusters
    #[arg(long)]
    keep: bool,
    /// Measure Sluice only
    #[arg(long)]
    only_sluice: bool,
}

/// Benchmarks of one part.
#[derive(Subcommand)]
enum Part {
    /// Measure bursts of CNI calls, beside ptp with host-local
    Cni {
        /// Bursts of 16 ADDs
        #[arg(long, default_value_t = 20)]
        bursts: usize,
    },
    /// Measure the programs with packets of established flows, beside an empty program
    Packets {
        /// Runs of each case
        #[arg(long, default_value_t = 1_000_000)]
        runs: u32,
    },
    /// Measure how many UDP requests of one pod to one host outside are lost
    UdpFlows {
        /// Requests a second, each from a new socket
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        /// Duration in seconds
        #[arg(long, default_value_t = 120)]
        seconds: u32,
    },
    /// Measure the agent with up to 50,000 Services and an API server in memory
    Scale,
    /// Measure clusters with many Services, beside kube-proxy up to 10,000
    Services(services::Options),
    /// Measure Sluice with up to 10,000 NetworkPolicies that select the measured pods
    Policy(policy::Options),
}

/// Measures, prints the report and writes its files.
///
/// # Errors
/// When a cluster does not start or a file cannot be written. The clusters are removed
/// nevertheless. A measurement that fails is reported and does not end the run.
pub fn run(cache: &Cache, options: &Options) -> Result<ExitCode> {
    let networks: &[Network] = if options.only_sluice {
        &[Network::Sluice]
    } else {
        &[Network::Sluice, Network::Iptables, Network::Nftables]
    };
    match &options.part {
        Some(Part::Cni { bursts }) => return cni::run(cache, *bursts),
        Some(Part::Packets { runs }) => return packets::run(cache, *runs),
        Some(Part::UdpFlows { rate, seconds }) => {
            return udp_flows::run(cache, *rate, *seconds);
        }
        Some(Part::Scale) => return scale::run(cache),
        Some(Part::Services(part)) => return services::run(cache, part, networks),
        Some(Part::Policy(part)) => return policy::run(cache, part),
        None => {}
    }
    setup::require_root()?;
    let written = measure(cache, options, networks).and_then(|figures| write(&figures));
    if !options.keep {
        for network in networks {
            cluster::down(cache, *network)?;
        }
    }
    written.map(|()| ExitCode::SUCCESS)
}

fn measure(cache: &Cache, options: &Options, networks: &[Network]) -> Result<Figures> {
    let archive = cluster::load_image(&cluster::load_program(cache)?)?;
    let clusters: Vec<BenchCluster> =
        networks.iter().map(|n| BenchCluster::up(cache, *n, &archive)).collect::<Result<_>>()?;
    for cluster in &clusters {
        cluster.wait_reachable()?;
    }
    let mut series = Vec::new();
    for load in Load::ALL {
        for same_node in [true, false] {
            series.extend(clusters.iter().map(|cluster| Series {
                network: cluster.network,
                same_node,
                load,
                pod_address: Vec::new(),
                cluster_ip: Vec::new(),
            }));
        }
    }
    let mut failures = Vec::new();
    let duration = Duration::from_secs(u64::from(options.seconds));
    for round in 0..options.rounds {
        let start = Instant::now();
        for group in series.chunks_mut(clusters.len()) {
            for (index, cluster_ip_first) in order(round, clusters.len()) {
                let (Some(series), Some(cluster)) = (group.get_mut(index), clusters.get(index))
                else {
                    continue;
                };
                let paths = [cluster_ip_first, !cluster_ip_first]
                    .map(|cluster_ip| Path { same_node: series.same_node, cluster_ip });
                let samples = samples(cluster, series.load, paths, duration);
                if let Err(error) = &samples {
                    failures.push(format!("round {}: {error:#}", round + 1));
                }
                for (n, path) in paths.into_iter().enumerate() {
                    let of_path = if path.cluster_ip {
                        &mut series.cluster_ip
                    } else {
                        &mut series.pod_address
                    };
                    of_path.push(samples.as_ref().ok().and_then(|samples| samples.get(n).copied()));
                }
            }
        }
        let name = format!("round {} of {}", round + 1, options.rounds);
        progress::line(&name, &format!("{} failures", failures.len()), start.elapsed());
    }
    let mut memory = Vec::new();
    for cluster in &clusters {
        memory.extend(cluster.memory()?);
    }
    Ok(Figures { series, memory, cni_add: cni_add(cache)?, failures })
}

/// The order of one round's samples under one load: (network, whether the ClusterIP is first). Both addresses
/// are measured in turns. The first network and the first address change from round to round.
fn order(round: usize, networks: usize) -> Vec<(usize, bool)> {
    (0..networks).map(|i| ((i + round) % networks, round % 2 == 1)).collect()
}

/// Takes a sample of each path, in turns. Between attempts it waits until the network answers.
fn samples(
    cluster: &BenchCluster,
    load: Load,
    paths: [Path; 2],
    duration: Duration,
) -> Result<Vec<f64>> {
    let targets = paths.map(|path| cluster.target(path));
    let sample = || {
        let rates = cluster.samples_at(load, &targets, duration);
        rates.with_context(|| format!("{}, {}", cluster.network.label(), load.label()))
    };
    attempts(sample, || cluster.wait_reachable())
}

/// Takes one sample; between attempts it calls `recover`.
///
/// # Errors
/// The error of the last attempt, or of `recover`.
fn attempts<T>(
    mut sample: impl FnMut() -> Result<T>,
    mut recover: impl FnMut() -> Result<()>,
) -> Result<T> {
    let mut attempt = 1;
    loop {
        match sample() {
            Ok(sample) => return Ok(sample),
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(error) => {
                println!("  attempt {attempt} of {ATTEMPTS} failed: {error:#}");
                recover()?;
                attempt += 1;
            }
        }
    }
}

/// Durations of CNI ADD in milliseconds, Sluice and ptp with host-local, from alternating calls.
fn cni_add(cache: &Cache) -> Result<[Vec<f64>; 2]> {
    let report = cni::bench(cache, &[])?;
    Ok(["ours_ms", "ptp_ms"].map(|series| {
        let times = report[series].as_array().map_or(&[][..], Vec::as_slice);
        times.iter().filter_map(serde_json::Value::as_f64).collect()
    }))
}

fn write(figures: &Figures) -> Result<()> {
    let text = figures.markdown();
    println!("\n{text}");
    let folder = write_report("bench", &figures.json(), &text)?;
    let plot = folder.join("bench.svg");
    fs::write(&plot, plot::svg(&figures.series))?;
    println!("written: {}", plot.display());
    Ok(())
}

/// Writes `name.json` and `name.md`; returns their folder.
fn write_report(name: &str, json: &serde_json::Value, markdown: &str) -> Result<PathBuf> {
    let folder = target().join("bench");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("{name}.json")), serde_json::to_vec_pretty(json)?)?;
    fs::write(folder.join(format!("{name}.md")), markdown)?;
    println!("written: {}/{name}.{{json,md}}", folder.display());
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::ensure;

    use super::*;

    #[test]
    fn failed_sample_is_repeated_after_the_network_answers() {
        for (failures, attempts_made) in [(0, 1), (ATTEMPTS - 1, ATTEMPTS), (ATTEMPTS, ATTEMPTS)] {
            let (samples, recovered) = (Cell::new(0), Cell::new(0));
            let sample = || {
                samples.set(samples.get() + 1);
                ensure!(samples.get() > failures, "connection refused");
                Ok(samples.get())
            };
            let recover = || {
                recovered.set(recovered.get() + 1);
                Ok(())
            };
            let result = attempts(sample, recover);
            assert_eq!(result.is_ok(), failures < ATTEMPTS);
            assert_eq!((samples.get(), recovered.get()), (attempts_made, attempts_made - 1));
        }
        let unreachable = attempts(fails, || anyhow::bail!("unreachable"));
        assert_eq!(unreachable.expect_err("not recovered").to_string(), "unreachable");
    }

    fn fails() -> Result<()> {
        anyhow::bail!("connection refused")
    }

    #[test]
    fn every_round_takes_every_sample_once_and_starts_with_another_network() {
        for round in 0..6 {
            let mut order = order(round, 3);
            assert_eq!(order.first(), Some(&(round % 3, round % 2 == 1)));
            order.sort_unstable();
            let expected = [0, 1, 2].map(|network| (network, round % 2 == 1));
            assert_eq!(order, expected, "round {round}");
        }
    }
}
