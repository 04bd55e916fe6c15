//! What each level runs, and where: packet and namespace tests in namespaces of their own.

use super::tally::Tally;
use super::{Level, Options};
use crate::cache::{Cache, checkout};
use crate::cluster::{self, Cni, Proxy, UpOptions};
use crate::{artefacts, install, setup};
use anyhow::Result;
use std::process::Command;

/// Packages that a plain `cargo clippy` leaves out: they are linted for the host all the same.
const BESIDE: [&str; 4] = ["sluice-ebpf", "packet-tests", "netns-tests", "cluster-tests"];

/// Runs one level.
pub fn run(cache: &Cache, level: Level, options: &Options) -> Result<Tally> {
    match level {
        Level::Unit => unit(cache, options),
        Level::Packet => packet(cache, options),
        Level::Netns => netns(cache, options),
        Level::Cluster => on_cluster(cache, options),
    }
}

fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(checkout());
    command
}

fn filter<'a>(command: &'a mut Command, options: &Options, threads: &str) -> &'a mut Command {
    command.args(["--", threads]).args(&options.filter)
}

fn unit(cache: &Cache, options: &Options) -> Result<Tally> {
    let mut tally = Tally::default();
    if options.filter.is_none() {
        let logs = cache.logs();
        let deny = ["--", "-D", "warnings"];
        tally = tally + Tally::check("format", cargo().args(["fmt", "--all", "--check"]), &logs)?;
        let mut lints = cargo();
        lints.args(["clippy", "--all-targets"]).args(deny);
        tally = tally + Tally::check("lints", &mut lints, &logs)?;
        let mut lints = cargo();
        lints.arg("clippy").args(BESIDE.iter().flat_map(|name| ["--package", name])).args(deny);
        tally = tally + Tally::check("lints of eBPF programs and tests", &mut lints, &logs)?;
    }
    let mut tests = cargo();
    tests.args(["test", "--no-fail-fast"]);
    Ok(tally + Tally::cargo(filter(&mut tests, options, "--test-threads=2"))?)
}

fn packet(cache: &Cache, options: &Options) -> Result<Tally> {
    setup::tests()?;
    let object = artefacts::bpf_object(cache)?;
    isolated("packet-tests", options, "--test-threads=2", |command| {
        command.env("SLUICE_BPF_OBJECT", &object);
    })
}

fn netns(cache: &Cache, options: &Options) -> Result<Tally> {
    setup::tests()?;
    let object = artefacts::bpf_object(cache)?;
    let programs = artefacts::programs(cache)?;
    // One at a time: each has a machine of two nodes to itself, and some of them measure time.
    isolated("netns-tests", options, "--test-threads=1", |command| {
        command
            .env("SLUICE_BPF_OBJECT", &object)
            .env("SLUICE_AGENT_BIN", &programs.agent)
            .env("SLUICE_CNI_BIN", &programs.cni);
    })
}

/// Runs a package's tests where they can change nothing of the machine: own network, own mounts,
/// own bpffs, own /run. Built outside first, since inside there is no way to a registry.
fn isolated(
    package: &str,
    options: &Options,
    threads: &str,
    prepare: impl Fn(&mut Command),
) -> Result<Tally> {
    let mut build = cargo();
    build.args(["test", "--package", package, "--no-run"]);
    prepare(&mut build);
    if !build.status()?.success() {
        return Ok(Tally { failed: 1, ..Tally::default() });
    }
    let inside = "mount -t bpf bpf /sys/fs/bpf && mount -t tmpfs tmpfs /run && ip link set lo up && \
                  exec cargo \"$@\"";
    let mut tests = Command::new("unshare");
    tests
        .current_dir(checkout())
        .args(["--net", "--mount", "--propagation", "private", "sh", "-c", inside, "cargo"])
        .args(["test", "--offline", "--no-fail-fast", "--package", package]);
    prepare(&mut tests);
    Tally::cargo(filter(&mut tests, options, threads))
}

fn on_cluster(cache: &Cache, options: &Options) -> Result<Tally> {
    let existed = cluster::find(cache, cluster::NAME).is_ok();
    let up = UpOptions::new(cluster::NAME, 3, Proxy::None, Cni::None);
    let cluster = cluster::up(cache, &up)?;
    let tally = install::sluice(cache, &cluster).and_then(|()| {
        let build = cargo().args(["test", "--package", "cluster-tests", "--no-run"]).status()?;
        if !build.success() {
            return Ok(Tally { failed: 1, ..Tally::default() });
        }
        let mut tests = cluster.engine.command("cargo");
        tests.current_dir(checkout()).env("KUBECONFIG", &cluster.kubeconfig).args([
            "test",
            "--offline",
            "--no-fail-fast",
            "--package",
            "cluster-tests",
        ]);
        Tally::cargo(filter(&mut tests, options, "--test-threads=4"))
    });
    if !existed && !options.keep {
        cluster::down(cache, cluster::NAME)?;
    }
    tally
}
