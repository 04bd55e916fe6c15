//! The conformance suite of ClusterNetworkPolicy, and the definition of this kind.
//!
//! Both come from upstream's Go module, at the version in `tests/conformance/policy/go.mod`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::programs::go;
use super::results::{self, Record};
use crate::cache::{Cache, Inputs, checkout};
use crate::kind::{self, Cluster};
use crate::oci::{self, Image, Layer};
use crate::process;

/// Raised when the image changes.
const REVISION: &str = "1";
/// Upstream's module.
const MODULE: &str = "sigs.k8s.io/network-policy-api";
/// The definition with the fields of the experimental channel: nodes as peers and domain names.
const DEFINITION: &str =
    "config/crd/experimental/policy.networking.k8s.io_clusternetworkpolicies.yaml";
/// Name of agnhost in upstream's manifests.
const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.45";
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
    for file in ["go.mod", "go.sum", "suite_test.go"] {
        inputs = inputs.path(&module().join(file))?;
    }
    let folder = cache.artifact("policy-conformance", &inputs, |folder| {
        let mut suite = go(&module());
        suite.args(["test", "-c", "-vet=off", "-o"]).arg(folder.join("suite.test")).arg(".");
        process::run("building the suite", &mut suite, &cache.logs(), process::BUILD)?;
        let program = folder.join("agnhost.tar");
        let mut layer = Layer::create(&program)?;
        layer.program("agnhost", &agnhost)?;
        layer.finish()?;
        let mut servers = Image::new(AGNHOST, &[&tools, &program], "/agnhost");
        servers.arguments.push("pause".to_owned());
        oci::write(&[servers], &folder.join("image.tar"))?;
        Ok(fs::remove_file(program)?)
    })?;
    cache.remove_others("policy-conformance", &folder)?;
    Ok(Programs { suite: folder.join("suite.test"), image: folder.join("image.tar") })
}

/// Runs the specifications that match `focus` and have not passed.
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
    let passed = file.with_extension("passed");
    let names: Vec<String> =
        results::read(file).into_iter().filter(Record::passed).map(|record| record.name).collect();
    fs::write(&passed, names.join("\n"))?;
    let mut command = cluster.command(&programs.suite);
    command
        .args(["-test.v", "-test.timeout=1h"])
        .arg(format!("-kubeconfig={}", cluster.kubeconfig.display()))
        .arg(format!("-focus={focus}"))
        .arg(format!("-results={}", file.display()))
        .arg(format!("-passed={}", passed.display()));
    let (_, log) =
        process::run_quietly("policy specifications", &mut command, &cache.logs(), DEADLINE)?;
    let text = fs::read_to_string(&log)?;
    ensure!(
        text.lines().rev().any(|line| results::counts_of_line(line).is_some()),
        "the suite did not end; log: {}\n{}",
        log.display(),
        process::last_lines(&log, 20)
    );
    Ok(())
}
