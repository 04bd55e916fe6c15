//! `cargo xtask conformance`: the network specifications of Kubernetes' end-to-end suite, and those of
//! ClusterNetworkPolicy.
//!
//! ```text
//! programs  the suite (tests/conformance), its runner, and the images that its pods need
//! policy    the suite of ClusterNetworkPolicy
//! results   results of earlier runs, exceptions, the table
//! ```
//! Runs on a kind cluster of its own. Results are kept per image of Sluice: a run that was
//! interrupted continues with the specifications that have not passed.

pub mod policy;
mod programs;
mod results;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::cache::{Cache, Inputs, checkout, sorted_entries, target};
use crate::kind::{self, Cluster, Cni, Proxy, Spec};
use crate::{image, install, process, progress, setup};
use programs::Programs;
use results::{Exceptions, Record};

/// The specifications that a CNI and a service proxy have to pass.
const FOCUS: &str = r"\[sig-network\]";
/// End of the names of files with results of ClusterNetworkPolicy.
const POLICY_RESULTS: &str = "-policy.jsonl";
/// What belongs to other features, needs a cloud provider, or runs alone.
const SKIP: &str = r"\[Feature:|\[Serial\]|\[Slow\]|\[Disruptive\]|\[Flaky\]|Netpol|LoadBalancers";
/// The label with the zone of a node, and the zones.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const ZONES: [&str; 3] = ["zone-a", "zone-b", "zone-c"];
/// All specifications take about 20 minutes with two processes.
const DEADLINE: Duration = Duration::from_secs(3 * 60 * 60);

/// A suite of specifications.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// The network specifications of Kubernetes.
    Kubernetes,
    /// The specifications of ClusterNetworkPolicy.
    ClusterNetworkPolicy,
}

/// Options of `cargo xtask conformance`.
#[derive(Args)]
pub struct Options {
    /// The suite to run
    #[arg(long, value_enum, default_value_t = Suite::Kubernetes)]
    suite: Suite,
    /// Run only specifications whose names match this regular expression; by default those of the network
    #[arg(long)]
    focus: Option<String>,
    /// Leave out specifications of Kubernetes whose names match this regular expression
    #[arg(long, default_value = SKIP)]
    skip: String,
    /// Number of specifications of Kubernetes that run at the same time
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    procs: u16,
    /// Nodes of the cluster, including the control plane; the others are spread over three zones. Specifications
    /// of traffic distribution need seven
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..))]
    nodes: u8,
    /// Run also the specifications that have passed with this image
    #[arg(long)]
    fresh: bool,
    /// Keep the cluster
    #[arg(long)]
    keep: bool,
    /// Use kube-proxy and the bridge plugin in place of Sluice
    #[arg(long)]
    baseline: bool,
    /// Print the results of earlier runs with this image, and run nothing
    #[arg(long)]
    report: bool,
}

/// Runs the specifications; the exit code is a failure if one failed that is not an exception.
///
/// # Errors
/// When a build fails, the cluster does not start, or the suite does not run.
pub fn run(cache: &Cache, options: &Options) -> Result<ExitCode> {
    setup::require_platform()?;
    let exceptions = Exceptions::read(&checkout().join("tests/conformance/exceptions.txt"))?;
    let image = if options.baseline { None } else { Some(image::archive(cache)?) };
    let file = results_file(image.as_deref(), options.suite)?;
    if options.fresh && file.exists() {
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    if options.report {
        return Ok(report(&results::read(&file), &exceptions));
    }
    let start = Instant::now();
    let programs = match options.suite {
        Suite::Kubernetes => Built::Kubernetes(programs::build(cache)?),
        Suite::ClusterNetworkPolicy => Built::Policy(policy::build(cache)?),
    };
    let spec = spec(options.baseline, options.nodes);
    let existed = Cluster::find(cache, &spec.name).is_ok();
    let cluster = kind::up(cache, &spec)?;
    let ran = prepare(cache, &cluster, image.as_deref()).and_then(|()| match &programs {
        Built::Kubernetes(programs) => suite(cache, &cluster, programs, options, &file),
        Built::Policy(programs) => {
            let focus = options.focus.as_deref().unwrap_or_default();
            policy::run(cache, &cluster, programs, focus, &file)
        }
    });
    if !existed && !options.keep {
        Cluster::down(cache, &spec.name)?;
    }
    ran?;
    progress::line("specifications", "ended", start.elapsed());
    Ok(report(&results::read(&file), &exceptions))
}

/// What was built for a suite.
enum Built {
    Kubernetes(Programs),
    Policy(policy::Programs),
}

/// The last outcome of each specification, by name: results of newer files replace those of older ones,
/// because specifications are run by hand, and not all of them with each image.
///
/// # Errors
/// When the folder of results cannot be read.
pub fn outcomes(target: &Path) -> Result<BTreeMap<String, String>> {
    let folder = target.join("conformance");
    let mut files = if folder.is_dir() { sorted_entries(&folder)? } else { Vec::new() };
    files.retain(|file| is_result_of_sluice(file));
    files.sort_by_key(|file| fs::metadata(file).and_then(|data| data.modified()).ok());
    let records = files.iter().flat_map(|file| results::read(file));
    Ok(records
        .filter(|record| !record.skipped())
        .map(|record| {
            let outcome = if record.passed() { "passed" } else { "failed" };
            (record.name, outcome.to_owned())
        })
        .collect())
}

/// Whether a file has results of Sluice, not those of `--baseline`.
fn is_result_of_sluice(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".jsonl") && !name.starts_with("baseline")
}

fn spec(baseline: bool, nodes: u8) -> Spec {
    let (name, nodes) = ("conformance".to_owned(), usize::from(nodes));
    if baseline {
        Spec { name, nodes, proxy: Proxy::Nftables, cni: Cni::Bridge }
    } else {
        Spec { name, nodes, ..Spec::for_sluice() }
    }
}

/// The file of results: one per image. With another image, every specification runs again.
fn results_file(image: Option<&Path>, suite: Suite) -> Result<PathBuf> {
    let key = match image {
        Some(image) => Inputs::default().path(image)?.key(),
        None => "baseline".to_owned(),
    };
    let folder = target().join("conformance");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(match suite {
        Suite::Kubernetes => format!("{key}.jsonl"),
        Suite::ClusterNetworkPolicy => format!("{key}{POLICY_RESULTS}"),
    }))
}

/// The zone of each worker, in turn.
fn zones(nodes: &[String]) -> impl Iterator<Item = (&str, &'static str)> {
    let workers = nodes.iter().filter(|node| !node.ends_with("-control-plane"));
    workers.map(String::as_str).zip(ZONES.into_iter().cycle())
}

fn prepare(cache: &Cache, cluster: &Cluster, image: Option<&Path>) -> Result<()> {
    if let Some(image) = image {
        install::sluice(cache, cluster, image)?;
    }
    for (node, zone) in zones(&cluster.nodes()?) {
        cluster.kubectl(&[
            "label",
            "--overwrite",
            "node",
            node,
            &format!("{ZONE_LABEL}={zone}"),
        ])?;
    }
    install::wait_rollout(cluster, "kube-system", "deployment/coredns")
}

fn suite(
    cache: &Cache,
    cluster: &Cluster,
    programs: &Programs,
    options: &Options,
    file: &Path,
) -> Result<()> {
    cluster.load(cache, &programs.images)?;
    let passed = file.with_extension("passed");
    let names: Vec<String> =
        results::read(file).into_iter().filter(Record::passed).map(|record| record.name).collect();
    fs::write(&passed, names.join("\n"))?;
    if !names.is_empty() {
        println!("  {} specifications have passed before", names.len());
    }
    let before = results::lines(file);
    let mut command: Command = cluster.command(&programs.runner);
    command
        .arg(format!("--procs={}", options.procs))
        .arg(format!("--focus={}", options.focus.as_deref().unwrap_or(FOCUS)))
        .arg(format!("--skip={}", options.skip))
        .args(["--no-color", "--timeout=3h", "--output-interceptor-mode=none", "--succinct"])
        .arg(&programs.suite)
        .args(["--", "--provider=skeleton", "--disable-log-dump"])
        // Only the first of the parallel processes counts them; in the others, specifications that need two
        // nodes skip themselves.
        .arg(format!("--num-nodes={}", zones(&cluster.nodes()?).count()))
        .arg(format!("--kubeconfig={}", cluster.kubeconfig.display()))
        .arg(format!("--results={}", file.display()))
        .arg(format!("--passed={}", passed.display()));
    let (_, log) = process::run_quietly("specifications", &mut command, &cache.logs(), DEADLINE)?;
    // The runner's exit status does not distinguish failed specifications from a suite that was
    // interrupted; its summary does.
    let text = fs::read_to_string(&log)?;
    let counted = text.lines().rev().find_map(results::counts_of_line);
    let (ran, of_run) = (results::lines(file) - before, counted.unwrap_or(0));
    ensure!(
        counted.is_some() && ran >= of_run,
        "the suite did not end, {ran} results of {of_run}; log: {}\n{}",
        log.display(),
        process::last_lines(&log, 20)
    );
    Ok(())
}

/// Prints the table; a failure that is not an exception gives the exit code of a failure.
fn report(records: &[Record], exceptions: &Exceptions) -> ExitCode {
    let summary = results::Summary::of(records, exceptions);
    print!("{}", summary.table());
    if summary.unexpected() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_nodes_are_two_workers_in_each_zone() {
        let nodes = ["k-control-plane", "k-w1", "k-w2", "k-w3", "k-w4", "k-w5", "k-w6"];
        let nodes = nodes.map(str::to_owned);
        let zones: Vec<_> = zones(&nodes).collect();
        assert_eq!(zones.len(), 6);
        for zone in ZONES {
            assert_eq!(zones.iter().filter(|(_, of_node)| *of_node == zone).count(), 2, "{zone}");
        }
    }

    #[test]
    fn results_of_the_baseline_are_not_those_of_sluice() {
        for (name, expected) in [
            ("0123.jsonl", true),
            ("0123-policy.jsonl", true),
            ("baseline.jsonl", false),
            ("baseline-policy.jsonl", false),
            ("0123.passed", false),
        ] {
            assert_eq!(is_result_of_sluice(&Path::new("results").join(name)), expected, "{name}");
        }
    }

    #[test]
    fn last_result_of_each_specification_counts() {
        let target = tempfile::tempdir().unwrap();
        let folder = target.path().join("conformance");
        fs::create_dir(&folder).unwrap();
        let line =
            |name, state| format!("{{\"name\":\"{name}\",\"state\":\"{state}\",\"seconds\":1}}\n");
        let files = [
            ("new.jsonl", 2, line("a", "passed")),
            ("baseline.jsonl", 3, line("a", "failed")),
            ("old.jsonl", 1, line("a", "failed") + &line("b", "passed")),
            ("one-zone.jsonl", 4, line("b", "skipped")),
        ];
        for (name, age, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age);
            fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        let expected = [("a", "passed"), ("b", "passed")];
        let expected = expected.map(|(name, outcome)| (name.to_owned(), outcome.to_owned()));
        assert_eq!(outcomes(target.path()).unwrap(), BTreeMap::from(expected));
    }
}
