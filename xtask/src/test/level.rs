//! The commands of each level.

use std::process::Command;

use anyhow::Result;

use super::runner::Runner;
use super::tally::Tally;
use super::{Level, Options};
use crate::cache::{Cache, checkout};
use crate::kind::{self, Cluster, Spec};
use crate::{build, conformance, image, install, process, setup, tidy};

/// Packages outside the workspace's default members. They are linted for the host.
const OTHER_PACKAGES: [&str; 7] = [
    "sluice-ebpf",
    "packet-tests",
    "netns-tests",
    "cluster-tests",
    LOAD_GENERATOR,
    FUZZ_TESTS,
    API_SERVER,
];

/// Package of the fuzz targets. The unit level runs it with random inputs for a few seconds.
const FUZZ_TESTS: &str = "fuzz-tests";

/// Package of the API server in memory. Its own tests are of the unit level.
const API_SERVER: &str = "api-server";

/// Package of the load generator of the benches. Its own tests are of the unit level.
const LOAD_GENERATOR: &str = "netbench";

/// Test binaries of the cluster level that run together.
pub struct Phase {
    /// Names of test binaries in tests/cluster/tests, without extension.
    pub tests: &'static [&'static str],
    /// Number of tests at a time.
    pub threads: usize,
}

/// The phases of the cluster level, in the order in which they run. `cargo xtask tidy` checks
/// that every test binary is in one.
pub const CLUSTER_PHASES: [Phase; 3] = [
    Phase { tests: &["install", "pod_network", "cases", "policy_matrix", "rollout"], threads: 4 },
    // Kill or restart agents and remove nodes, which would disturb the other tests, or measure time.
    Phase { tests: &["default_deny", "disruption", "drops", "xdp"], threads: 1 },
    // Replaces the network of the cluster.
    Phase { tests: &["uninstall"], threads: 1 },
];

/// Tests of the namespace level that run one at a time, by parts of their names: they count lost
/// packets while agents start, or measure time. The others run in pairs.
const ALONE: [&str; 8] = [
    "command_is_killed",
    "growth::",
    "interrupted_test_process",
    "repairs::",
    "restarted_agent_loses_no_request",
    "service_changes::",
    "upgrades::",
    "xdp_is_repaired",
];

/// Runs one level.
///
/// # Errors
/// When an installation or a build fails, or the cluster does not start.
pub fn run(cache: &Cache, level: Level, options: &Options, runner: &mut Runner) -> Result<Tally> {
    match level {
        Level::Unit => unit(cache, options, runner),
        Level::Packet => packet(cache, options, runner),
        Level::Netns => netns(cache, options, runner),
        Level::Cluster => cluster(cache, options, runner),
    }
}

fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(checkout());
    command
}

fn unit(cache: &Cache, options: &Options, runner: &mut Runner) -> Result<Tally> {
    let mut tally = Tally::default();
    if options.filter.is_none() {
        let logs = cache.logs();
        let deny = ["--", "-D", "warnings"];
        let mut format = cargo();
        format.args(["fmt", "--all", "--check"]);
        tally = tally + runner.check("format", &mut format, &logs);
        tally = tally + if tidy::check()? { Tally::SUCCESS } else { Tally::FAILURE };
        let mut lints = cargo();
        lints.args(["clippy", "--all-targets"]).args(deny);
        tally = tally + runner.check("lints", &mut lints, &logs);
        let packages = OTHER_PACKAGES.iter().flat_map(|name| ["--package", name]);
        let mut lints = cargo();
        lints.args(["clippy", "--all-targets"]).args(packages).args(deny);
        tally = tally + runner.check("lints of eBPF programs and tests", &mut lints, &logs);
        tally = tally + dependencies(cache, runner);
    }
    let default = ["test", "--no-fail-fast"].as_slice();
    let fuzz = ["test", "--no-fail-fast", "--package", FUZZ_TESTS].as_slice();
    let tools = ["test", "--no-fail-fast", "--package", API_SERVER, "--package", LOAD_GENERATOR];
    for words in [default, fuzz, &tools] {
        if let Err(error) = runner.prepare(|| compile(cargo().args(words))) {
            eprintln!("    {error:#}");
            tally = tally + Tally::FAILURE;
            continue;
        }
        let mut tests = cargo();
        // More than there are CPUs: tests of outages wait most of their time.
        tests.args(words).args(["--", "--test-threads=4"]).args(&options.filter);
        tally = tally + runner.cargo_test(&mut tests)?;
    }
    Ok(tally)
}

/// Licenses, sources and bans of deny.toml. Advisories need a clone of a git repository, which not
/// every machine can reach.
fn dependencies(cache: &Cache, runner: &mut Runner) -> Tally {
    match runner.prepare(|| setup::cargo_deny(cache)) {
        Ok(program) => {
            let mut command = Command::new(program);
            command.current_dir(checkout()).args(["check", "bans", "licenses", "sources"]);
            runner.check("licenses and sources of dependencies", &mut command, &cache.logs())
        }
        Err(error) => {
            println!("    skipped: licenses and sources of dependencies: {error:#}");
            Tally { skipped: 1, ..Tally::default() }
        }
    }
}

fn packet(cache: &Cache, options: &Options, runner: &mut Runner) -> Result<Tally> {
    let object = runner.prepare(|| {
        setup::tests()?;
        build::bpf_object(cache)
    })?;
    let environment = |command: &mut Command| {
        command.env(build::OBJECT_VARIABLE, &object);
    };
    let tests = Isolated { package: "packet-tests", environment: &environment };
    tests.compile(runner)?;
    tests.run(runner, ["--test-threads=2"].into_iter().chain(options.filter.as_deref()))
}

fn netns(cache: &Cache, options: &Options, runner: &mut Runner) -> Result<Tally> {
    let (next, programs) = runner.prepare(|| {
        setup::tests()?;
        // Cargo places both versions' programs at the same paths; the last one stays.
        let next = build::next_programs(cache)?;
        Ok((next, build::programs(cache)?))
    })?;
    let environment = |command: &mut Command| {
        command.envs(programs.environment()).envs(next.environment());
    };
    let tests = Isolated { package: "netns-tests", environment: &environment };
    tests.compile(runner)?;
    let alone = "--test-threads=1";
    if let Some(filter) = &options.filter {
        return tests.run(runner, [alone, filter]);
    }
    let skipped = ALONE.iter().flat_map(|name| ["--skip", name]);
    let pairs = tests.run(runner, ["--test-threads=2"].into_iter().chain(skipped))?;
    Ok(pairs + tests.run(runner, [alone].into_iter().chain(ALONE))?)
}

/// Tests of a package that run in a network and a mount namespace, with a bpffs and a /run of their
/// own. They are compiled outside, where the registry is reachable.
struct Isolated<'a> {
    package: &'a str,
    environment: &'a dyn Fn(&mut Command),
}

impl Isolated<'_> {
    fn words(&self) -> [&str; 4] {
        ["test", "--no-fail-fast", "--package", self.package]
    }

    fn compile(&self, runner: &mut Runner) -> Result<()> {
        runner.prepare(|| {
            let mut command = cargo();
            (self.environment)(command.args(self.words()));
            compile(&mut command)
        })
    }

    /// Runs the tests with these arguments of libtest.
    fn run<'b>(
        &self,
        runner: &mut Runner,
        arguments: impl IntoIterator<Item = &'b str>,
    ) -> Result<Tally> {
        let script = "mount -t bpf bpf /sys/fs/bpf && mount -t tmpfs tmpfs /run && \
                      ip link set lo up && exec cargo \"$@\"";
        let mut tests = Command::new("unshare");
        tests
            .current_dir(checkout())
            .args(["--net", "--mount", "--propagation", "private", "sh", "-c", script, "cargo"])
            .args(self.words())
            .args(["--offline", "--"])
            .args(arguments);
        (self.environment)(&mut tests);
        runner.cargo_test(&mut tests)
    }
}

fn cluster(cache: &Cache, options: &Options, runner: &mut Runner) -> Result<Tally> {
    let spec = Spec::for_sluice();
    let existed = Cluster::find(cache, &spec.name).is_ok();
    let words = ["test", "--no-fail-fast", "--package", "cluster-tests"];
    let (image, binary, cluster, definition) = runner.prepare(|| {
        compile(cargo().args(words))?;
        let image = image::archive(cache)?;
        let binary = build::static_program(cache, "sluice-agent", "sluice", "release")?;
        Ok((image, binary, kind::up(cache, &spec)?, conformance::policy::definition()?))
    })?;
    let tally = install::sluice(cache, &cluster, &image).and_then(|()| {
        let mut tally = Tally::default();
        for (number, phase) in CLUSTER_PHASES.iter().enumerate() {
            let mut tests = cluster.command("cargo");
            tests.current_dir(checkout()).args(words).arg("--offline");
            tests.env("SLUICE_CLUSTER_NETWORK_POLICY_DEFINITION", &definition);
            tests.env("SLUICE_BINARY", &binary);
            if number == 0 {
                tests.arg("--lib");
            }
            tests
                .args(phase.tests.iter().flat_map(|name| ["--test", name]))
                .args(["--", &format!("--test-threads={}", phase.threads)])
                .args(&options.filter);
            tally = tally + runner.cargo_test(&mut tests)?;
        }
        Ok(tally)
    });
    if !existed && !options.keep {
        runner.prepare(|| Cluster::down(cache, &spec.name))?;
    }
    tally
}

/// Compiles the tests of a `cargo test` command and prints the compiler's messages.
fn compile(command: &mut Command) -> Result<()> {
    process::run_attached("compiling the tests", command.arg("--no-run"), process::BUILD)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cache::sorted_entries;

    /// Names of tests with those of their modules, as in the sources.
    fn names() -> String {
        let root = checkout().join("tests/netns/tests");
        let mut names = String::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for path in sorted_entries(&folder).expect("a folder") {
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let module = path.file_stem().expect("a name").to_string_lossy().into_owned();
                let is_crate = path.parent() == Some(root.as_path()) || module == "main";
                let prefix = if is_crate { String::new() } else { format!("{module}::") };
                let text = fs::read_to_string(&path).expect("a source");
                let lines: Vec<&str> = text.lines().collect();
                for pair in lines.windows(2) {
                    if let ("#[test]", Some(name)) = (pair[0], pair[1].strip_prefix("fn ")) {
                        names += &format!("{prefix}{name}\n");
                    }
                }
            }
        }
        names
    }

    #[test]
    fn tests_that_run_alone_exist() {
        let names = names();
        for part in ALONE {
            assert!(names.contains(part), "no test is named {part}");
        }
    }
}
