//! `cargo xtask bench services`: clusters with many Services, Sluice beside kube-proxy.
//!
//! ```text
//! clusters of two nodes --> for each size: create Services, wait for the last one, rounds --> report
//! ```
//! A round takes every [`Case`] once in every network, in an order that changes, and rates are
//! compared within a round only. Above [`BASELINE_MAX`] Services the clusters of kube-proxy are
//! removed. Output: the report on the terminal, and `services.json` and `services.md` in
//! target/bench.

mod etcd;
mod fill;
mod report;

use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::report::{Address, Case, Figures, Filled, GROUPS, Series, cases};
use super::cluster::{self, BenchCluster, PORT};
use super::report::{Load, Network};
use super::{attempts, quiet};
use crate::cache::Cache;
use crate::{progress, setup};

/// Largest number of Services in a cluster with kube-proxy.
const BASELINE_MAX: usize = 10_000;
/// Largest number of Services: the default Service range has 65,534 addresses.
const SERVICES_MAX: usize = 60_000;
/// Time in which a Service is served after the API server has accepted it.
const SERVED: Duration = Duration::from_secs(600);
/// Duration of the measurement that checks whether a server answers.
const PROBE: Duration = Duration::from_millis(50);

/// Options of `cargo xtask bench services`.
#[derive(Args)]
pub struct Options {
    /// Numbers of Services; above 10,000 Sluice is measured alone
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 10_000])]
    sizes: Vec<usize>,
    /// Rounds at each size; fewer than six give no confidence interval
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Duration of one measurement in seconds
    #[arg(long, default_value_t = 1)]
    seconds: u32,
}

/// A cluster with the addresses that are measured.
struct Subject {
    cluster: BenchCluster,
    /// Addresses of the client's node and of the other node.
    nodes: [String; 2],
    /// NodePorts of the server on the client's node and of that on the other node.
    node_ports: [u16; 2],
}

/// Measures, prints the report and writes its files.
///
/// # Errors
/// When the sizes are not valid, a cluster does not start or cannot be filled, or a file cannot be
/// written. The clusters are removed nevertheless.
pub fn run(cache: &Cache, options: &Options, networks: &[Network]) -> Result<ExitCode> {
    setup::require_root()?;
    let sizes = sizes(&options.sizes)?;
    let mut figures = Figures::default();
    let measured = measure(cache, options, &sizes, networks, &mut figures);
    // What was measured before a failure is not lost.
    println!("\n{}", figures.markdown());
    let written = write(&figures);
    for network in networks {
        cluster::down(cache, *network)?;
    }
    measured.and(written).map(|()| ExitCode::SUCCESS)
}

/// The sizes in ascending order: Services are added only.
fn sizes(requested: &[usize]) -> Result<Vec<usize>> {
    let mut sizes = requested.to_vec();
    sizes.sort_unstable();
    sizes.dedup();
    let valid = sizes.first().is_some_and(|first| *first > 0)
        && sizes.last().is_some_and(|last| *last <= SERVICES_MAX);
    ensure!(valid, "--sizes: one or more numbers from 1 to {SERVICES_MAX}");
    Ok(sizes)
}

fn measure(
    cache: &Cache,
    options: &Options,
    sizes: &[usize],
    networks: &[Network],
    figures: &mut Figures,
) -> Result<()> {
    let archive = cluster::load_image(&cluster::load_program(cache)?)?;
    let with_baselines = sizes.first().is_some_and(|size| *size <= BASELINE_MAX);
    let mut subjects: Vec<Subject> = networks
        .iter()
        .filter(|network| with_baselines || **network == Network::Sluice)
        .map(|network| Subject::up(cache, *network, &archive))
        .collect::<Result<_>>()?;
    let mut known = 0;
    for &services in sizes {
        if services > BASELINE_MAX {
            for network in networks.iter().filter(|n| **n != Network::Sluice) {
                if subjects.iter().any(|s| s.cluster.network == *network) {
                    cluster::down(cache, *network)?;
                }
            }
            subjects.retain(|s| s.cluster.network == Network::Sluice);
        }
        // The Service of the first size is the measured one.
        let created = fill_all(&subjects, known.max(1)..services.max(1))?;
        let mut filled = Vec::new();
        for (subject, created) in subjects.iter().zip(created) {
            let programmed = subject.wait_served(services)?;
            let network = subject.cluster.network;
            filled.push(Filled { services, network, created, programmed, memory: 0 });
        }
        known = services;
        quiet::wait()?;
        figures.series.extend(rounds(options, services, &subjects, &mut figures.failures)?);
        for (row, subject) in filled.iter_mut().zip(&subjects) {
            let memory = subject.cluster.memory()?;
            row.memory = memory.iter().map(|(_, kib)| *kib).max().unwrap_or_default();
        }
        figures.filled.extend(filled);
        write(figures)?;
    }
    Ok(())
}

/// Creates Services with these numbers in one cluster after the other; returns the time of each in seconds.
/// At the same time, the API servers take so long that connections end and leases of controllers run out.
fn fill_all(subjects: &[Subject], numbers: Range<usize>) -> Result<Vec<f64>> {
    subjects.iter().map(|subject| fill::create(&subject.cluster, numbers.clone())).collect()
}

/// Takes the samples of all rounds at one size.
fn rounds(
    options: &Options,
    services: usize,
    subjects: &[Subject],
    failures: &mut Vec<String>,
) -> Result<Vec<Series>> {
    let mut series: Vec<Series> = cases()
        .into_iter()
        .flat_map(|case| {
            subjects.iter().map(move |subject| Series {
                services,
                network: subject.cluster.network,
                case,
                samples: Vec::new(),
            })
        })
        .collect();
    let duration = Duration::from_secs(u64::from(options.seconds));
    for round in 0..options.rounds {
        let start = Instant::now();
        for (cases, index) in order(round, subjects.len()) {
            let Some(subject) = subjects.get(index) else { continue };
            let network = subject.cluster.network;
            let samples = subject.samples(&cases, duration);
            if let Err(error) = &samples {
                failures.push(format!("{services} Services, round {}: {error:#}", round + 1));
            }
            for (n, case) in cases.into_iter().enumerate() {
                let entry = series.iter_mut().find(|s| s.network == network && s.case == case);
                let sample = samples.as_ref().ok().and_then(|samples| samples.get(n).copied());
                entry.context("a series for every case")?.samples.push(sample);
            }
        }
        let name = format!("{services} Services, round {} of {}", round + 1, options.rounds);
        progress::line(&name, &format!("{} failures", failures.len()), start.elapsed());
    }
    Ok(series)
}

/// The order of one round: every case in every network. The addresses of one load are measured in turns; the
/// first network and the first address change from round to round.
fn order(round: usize, networks: usize) -> Vec<(Vec<Case>, usize)> {
    let mut order = Vec::new();
    for (load, same_node, addresses) in GROUPS {
        for network in (0..networks).map(|n| (n + round) % networks) {
            let addresses = (0..addresses.len()).map(|n| addresses[(n + round) % addresses.len()]);
            let cases = addresses.map(|address| Case { load, same_node, address });
            order.push((cases.collect(), network));
        }
    }
    order
}

impl Subject {
    /// Creates the cluster and waits until every address answers.
    fn up(cache: &Cache, network: Network, archive: &std::path::Path) -> Result<Self> {
        let cluster = BenchCluster::up(cache, network, archive)?;
        fill::prepare(&cluster)?;
        for name in ["near", "far"] {
            let patch = r#"{"spec": {"type": "NodePort"}}"#;
            cluster.kubectl(&["patch", "service", name, "--patch", patch])?;
        }
        let node_port = |name| node_port(&cluster, name);
        let node_ports = [node_port("near")?, node_port("far")?];
        let nodes = [node_address(&cluster, true)?, node_address(&cluster, false)?];
        let subject = Self { cluster, nodes, node_ports };
        for case in cases().into_iter().filter(|case| case.load == Load::Connect) {
            subject.wait_reachable(case)?;
        }
        Ok(subject)
    }

    /// What the client connects to.
    fn target(&self, case: Case) -> String {
        let server = self.cluster.server(case.same_node);
        let [near, far] = self.node_ports;
        let node_port = if case.same_node { near } else { far };
        let [own, other] = &self.nodes;
        match case.address {
            Address::Pod => format!("{}:{PORT}", server.pod),
            Address::ClusterIp => format!("{}:{PORT}", server.cluster_ip),
            Address::OwnNodePort => format!("{own}:{node_port}"),
            Address::OtherNodePort => format!("{other}:{node_port}"),
        }
    }

    fn wait_reachable(&self, case: Case) -> Result<()> {
        let name = format!("{}, {}", self.cluster.network.label(), case.label());
        progress::wait(&name, SERVED, || {
            let probe = self.cluster.sample_at(case.load, &self.target(case), PROBE);
            probe.map(drop).map_err(|e| e.to_string())
        })
    }

    /// Takes a sample of each case, which have one load, in turns. Between attempts it waits until the addresses
    /// answer.
    fn samples(&self, cases: &[Case], duration: Duration) -> Result<Vec<f64>> {
        let Some(first) = cases.first() else { return Ok(Vec::new()) };
        let targets: Vec<String> = cases.iter().map(|case| self.target(*case)).collect();
        let sample = || {
            let rates = self.cluster.samples_at(first.load, &targets, duration);
            rates.with_context(|| {
                format!("{}, {} and others", self.cluster.network.label(), first.label())
            })
        };
        attempts(sample, || cases.iter().try_for_each(|case| self.wait_reachable(*case)))
    }

    /// Creates one more Service, whose endpoint is the measured server on the other node, and waits until
    /// both nodes serve it, and with it all Services from before; returns the time in seconds.
    fn wait_served(&self, services: usize) -> Result<f64> {
        let start = Instant::now();
        let name = format!("last-{services}");
        let port = format!("--tcp={PORT}:{PORT}");
        self.cluster.kubectl(&["create", "service", "nodeport", &name, &port])?;
        let selector = r#"{"spec": {"selector": {"app": "far"}}}"#;
        self.cluster.kubectl(&["patch", "service", &name, "--patch", selector])?;
        let node_port = node_port(&self.cluster, &name)?;
        let what = format!("{services} Services, {}", self.cluster.network.label());
        for node in &self.nodes {
            let target = format!("{node}:{node_port}");
            progress::wait(&what, SERVED, || {
                let probe = self.cluster.sample_at(Load::Connect, &target, PROBE);
                probe.map(drop).map_err(|e| e.to_string())
            })?;
        }
        progress::line(&what, "served by both nodes", start.elapsed());
        Ok(start.elapsed().as_secs_f64())
    }
}

fn node_port(cluster: &BenchCluster, name: &str) -> Result<u16> {
    let path = "jsonpath={.spec.ports[0].nodePort}";
    let text = cluster.kubectl(&["get", "service", name, "-o", path])?;
    text.parse().with_context(|| format!("NodePort of {name}: {text:?}"))
}

/// The IPv4 address of the client's node or of the other node.
fn node_address(cluster: &BenchCluster, of_client: bool) -> Result<String> {
    let name = cluster.node(of_client);
    let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    let text = cluster.kubectl(&["get", "node", name, "-o", path])?;
    let address = text.split_whitespace().find(|address| !address.contains(':'));
    address.map(str::to_owned).with_context(|| format!("address of {name}: {text:?}"))
}

/// Writes the files of the report.
fn write(figures: &Figures) -> Result<()> {
    super::write_report("services", &figures.json(), &figures.markdown()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_takes_every_sample_once_and_starts_differently() {
        let mut first = Vec::new();
        for round in 0..3 {
            let order = order(round, 3);
            let samples: Vec<(Case, usize)> = order
                .iter()
                .flat_map(|(cases, network)| cases.iter().map(|case| (*case, *network)))
                .collect();
            assert_eq!(samples.len(), cases().len() * 3);
            for case in cases() {
                for network in 0..3 {
                    let count = samples.iter().filter(|sample| **sample == (case, network)).count();
                    assert_eq!(count, 1, "round {round}, {}", case.label());
                }
            }
            first.push((samples[0].0.address, samples[0].1));
        }
        let expected = [(Address::Pod, 0), (Address::ClusterIp, 1), (Address::OwnNodePort, 2)];
        assert_eq!(first, expected);
    }

    #[test]
    fn sizes_are_sorted_and_checked() {
        assert_eq!(sizes(&[1_000, 1, 1_000]).ok(), Some(vec![1, 1_000]));
        for invalid in [&[][..], &[0], &[70_000]] {
            assert!(sizes(invalid).is_err(), "{invalid:?}");
        }
    }
}
