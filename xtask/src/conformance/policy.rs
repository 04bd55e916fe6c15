//! The conformance suite of ClusterNetworkPolicy, and the definition of this kind.
//!
//! Both come from upstream's Go module, at the version in `tests/conformance/policy/go.mod`. Where the kernel has no
//! SCTP, the pods of the suite set up associations by raw sockets (`tests/conformance/policy/agnhost`).

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::programs::go;
use crate::cache::{Cache, Inputs, checkout};
use crate::kind::{self, Cluster};
use crate::oci::{self, Image, Layer};
use crate::process;

/// Raised when the image changes.
const REVISION: &str = "3";
/// Upstream's module.
const MODULE: &str = "sigs.k8s.io/network-policy-api";
/// The definition with the fields of the experimental channel: nodes as peers and domain names.
const DEFINITION: &str =
    "config/crd/experimental/policy.networking.k8s.io_clusternetworkpolicies.yaml";
/// The test of the suite's program; each specification is a part of it.
const TEST: &str = "TestClusterNetworkPolicy";
/// Name of agnhost in upstream's manifests.
const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.45";
/// Package of the program that is agnhost in the image, and starts upstream's.
const START: &str = "./agnhost";
/// All specifications take about 15 minutes.
const DEADLINE: Duration = Duration::from_secs(60 * 60);

/// Paths of the built files.
pub struct Programs {
    suite: PathBuf,
    image: PathBuf,
}

fn module() -> PathBuf {
    checkout().join("tests/conformance/policy")
}

/// The file with upstream's definition, which is downloaded if it is not in the cache of Go modules.
///
/// # Errors
/// When the module cannot be downloaded or lacks the file.
pub fn definition() -> Result<PathBuf> {
    let mut download = Command::new("go");
    download.current_dir(module()).args(["mod", "download", "-json", MODULE]);
    let described: Value = serde_json::from_str(&process::output(&mut download)?)?;
    let folder = described["Dir"].as_str().context("the module has no folder")?;
    let file = Path::new(folder).join(DEFINITION);
    ensure!(file.exists(), "{} does not exist", file.display());
    Ok(file)
}

/// Builds what is not in the cache: about 2 minutes.
///
/// # Errors
/// When a build fails.
pub fn build(cache: &Cache) -> Result<Programs> {
    let (tools, agnhost) = (kind::tools(cache)?, kind::program(cache, "agnhost")?);
    let mut inputs = Inputs::default().text(REVISION);
    for path in [&tools, &agnhost] {
        // The path contains the hash of the file's inputs.
        inputs = inputs.text(&path.to_string_lossy());
    }
    for file in ["go.mod", "go.sum", "suite_test.go", "agnhost"] {
        inputs = inputs.path(&module().join(file))?;
    }
    let folder = cache.artifact("policy-conformance", &inputs, |folder| {
        let mut suite = go(&module());
        suite.args(["test", "-c", "-vet=off", "-o"]).arg(folder.join("suite.test")).arg(".");
        process::run("building the suite", &mut suite, &cache.logs(), process::BUILD)?;
        let mut tests = go(&module());
        tests.args(["test", START]);
        process::run("testing its agnhost", &mut tests, &cache.logs(), process::BUILD)?;
        let program = folder.join("agnhost.tar");
        let start = folder.join("agnhost");
        let mut build = go(&module());
        build.args(["build", "-o"]).arg(&start).arg(START);
        process::run("building its agnhost", &mut build, &cache.logs(), process::BUILD)?;
        let mut layer = Layer::create(&program)?;
        layer.program("agnhost-program", &agnhost)?;
        layer.program("agnhost", &start)?;
        layer.finish()?;
        fs::remove_file(start)?;
        let mut servers = Image::new(AGNHOST, &[&tools, &program], "/agnhost");
        servers.arguments.push("pause".to_owned());
        oci::write(&[servers], &folder.join("image.tar"))?;
        Ok(fs::remove_file(program)?)
    })?;
    cache.remove_others("policy-conformance", &folder)?;
    Ok(Programs { suite: folder.join("suite.test"), image: folder.join("image.tar") })
}

/// Runs the specifications that match `focus`, and appends their results to `file`.
///
/// # Errors
/// When the image cannot be loaded, the definition cannot be installed, or the suite does not end.
pub fn run(
    cache: &Cache,
    cluster: &Cluster,
    programs: &Programs,
    focus: &str,
    file: &Path,
) -> Result<()> {
    cluster.load(cache, &programs.image)?;
    let definition = definition()?;
    cluster.kubectl(&["apply", "-f", &definition.to_string_lossy()])?;
    let mut command = cluster.command(&programs.suite);
    command
        .args(["-test.v", "-test.timeout=1h"])
        .arg(format!("-test.run={TEST}/{focus}"))
        .arg(format!("-kubeconfig={}", cluster.kubeconfig.display()));
    let (_, log) =
        process::run_quietly("policy specifications", &mut command, &cache.logs(), DEADLINE)?;
    let results = results(&fs::read_to_string(&log)?);
    ensure!(
        !results.is_empty(),
        "the suite did not end; log: {}\n{}",
        log.display(),
        process::last_lines(&log, 20)
    );
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    Ok(file.write_all(results.concat().as_bytes())?)
}

/// The last connection of each specification that was not as expected, and the line of source that reports it:
/// `        helper.go:73: FAILED Command was [/agnhost connect --timeout=3s --protocol=udp 10.244.1.3:53]`.
fn failed_connections(log: &str) -> BTreeMap<&str, (&str, &str)> {
    let mut failed = BTreeMap::new();
    let mut current = "";
    for line in log.lines() {
        let started = ["=== RUN ", "=== NAME "].iter().find_map(|start| line.strip_prefix(start));
        if let Some(name) = started {
            current = name.trim();
        } else if let Some((at, text)) = line.trim().split_once(": FAILED ") {
            failed.insert(current, (at, text));
        }
    }
    failed
}

/// A line of JSON for each specification of a log: `    --- PASS: TEST/SPECIFICATION/PART (1.50s)`. A
/// specification with parts is represented by these.
fn results(log: &str) -> Vec<String> {
    let failed = failed_connections(log);
    let lines = log.lines().filter_map(|line| {
        let (state, rest) = line.trim().strip_prefix("--- ")?.split_once(": ")?;
        let (full_name, seconds) = rest.rsplit_once(" (")?;
        let name = full_name.strip_prefix(TEST)?.strip_prefix('/')?;
        let state = match state {
            "PASS" => "passed",
            "FAIL" => "failed",
            _ => return None,
        };
        let seconds: f64 = seconds.strip_suffix("s)")?.parse().ok()?;
        let connection = failed.get(full_name).filter(|_| state == "failed");
        Some((name, state, seconds, connection))
    });
    let all: Vec<_> = lines.collect();
    let has_parts = |name: &str| {
        all.iter().any(|(part, ..)| part.strip_prefix(name).is_some_and(|p| p.starts_with('/')))
    };
    let leaves = all.iter().filter(|(name, ..)| !has_parts(name));
    leaves
        .map(|(name, state, seconds, connection)| {
            let name = name.replace('_', " ");
            let mut result = json!({ "name": name, "state": state, "seconds": seconds });
            if let Some((at, failure)) = connection {
                result["failure"] = json!(failure);
                result["at"] = json!(at);
            }
            format!("{result}\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_specifications_are_results() {
        let log = "=== RUN   TestClusterNetworkPolicy
    helper.go:1: --- something
--- FAIL: TestClusterNetworkPolicy (9.00s)
    --- FAIL: TestClusterNetworkPolicy/CNPOne (3.00s)
        --- PASS: TestClusterNetworkPolicy/CNPOne/Should_pass (1.00s)
        --- FAIL: TestClusterNetworkPolicy/CNPOne/Should_(not)_fail (2.50s)
    --- SKIP: TestClusterNetworkPolicy/CNPTwo (0.00s)
    --- PASS: TestClusterNetworkPolicy/CNPThree (0.00s)
";
        let found = results(log);
        let expected = [
            json!({ "name": "CNPOne/Should pass", "state": "passed", "seconds": 1.0 }),
            json!({ "name": "CNPOne/Should (not) fail", "state": "failed", "seconds": 2.5 }),
            json!({ "name": "CNPThree", "state": "passed", "seconds": 0.0 }),
        ];
        assert_eq!(found, expected.map(|line| format!("{line}\n")));
    }

    #[test]
    fn failed_specification_has_its_last_failed_connection_and_a_passed_one_has_none() {
        let log = "=== RUN   TestClusterNetworkPolicy
=== RUN   TestClusterNetworkPolicy/CNPOne
=== RUN   TestClusterNetworkPolicy/CNPOne/Should_pass
    helper.go:73: FAILED Command was [connect --protocol=tcp 10.244.1.3:80]
=== RUN   TestClusterNetworkPolicy/CNPOne/Should_fail
    helper.go:73: FAILED Command was [connect --protocol=tcp 10.244.1.3:80]
    helper.go:73: Expected connection to succeed, TIMEOUT
    helper.go:73: FAILED Command was [connect --protocol=udp 10.244.1.3:53]
=== NAME  TestClusterNetworkPolicy/CNPOne
    cleanup.go:9: FAILED to delete
--- FAIL: TestClusterNetworkPolicy (9.00s)
    --- FAIL: TestClusterNetworkPolicy/CNPOne (3.00s)
        --- PASS: TestClusterNetworkPolicy/CNPOne/Should_pass (1.00s)
        --- FAIL: TestClusterNetworkPolicy/CNPOne/Should_fail (2.00s)
";
        let found = results(log);
        let failure = "Command was [connect --protocol=udp 10.244.1.3:53]";
        let expected = [
            json!({ "name": "CNPOne/Should pass", "state": "passed", "seconds": 1.0 }),
            json!({
                "name": "CNPOne/Should fail",
                "state": "failed",
                "seconds": 2.0,
                "failure": failure,
                "at": "helper.go:73",
            }),
        ];
        assert_eq!(found, expected.map(|line| format!("{line}\n")));
    }
}
