//! Kubernetes from Go modules, for machines that can pull no node image.
//!
//! In: the Go modules in tests/node-image. Out: static programs in the cache: `kubernetes`
//! (every component in one), `coredns`, `agnhost`, `pause`.

use crate::cache::{Cache, Inputs, checkout};
use crate::progress;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release that the modules in tests/node-image/kubernetes/go.mod are of.
pub const VERSION: &str = "v1.34.2";
/// What kubeadm of that release calls its companions.
pub const ETCD: &str = "3.6.5-0";
/// The sandbox image of that release.
pub const PAUSE: &str = "3.10.1";
/// The CoreDNS image of that release.
pub const COREDNS: &str = "v1.12.1";

struct Program {
    name: &'static str,
    /// Folder of the Go module below tests/node-image.
    module: &'static str,
    package: &'static str,
    /// As long as it takes cold on two cores.
    note: &'static str,
}

const PROGRAMS: [Program; 4] = [
    Program {
        name: "kubernetes",
        module: "kubernetes",
        package: ".",
        note: "(8 min on 2 cores the first time)",
    },
    Program {
        name: "agnhost",
        module: "kubernetes",
        package: "k8s.io/kubernetes/test/images/agnhost",
        note: "(1.5 min)",
    },
    Program { name: "coredns", module: "coredns", package: ".", note: "(1 min)" },
    Program { name: "pause", module: "pause", package: ".", note: "" },
];

/// The programs, each by name: built, or found in the cache.
pub struct Programs {
    directories: Vec<(&'static str, PathBuf)>,
}

impl Programs {
    /// The path of the program called `name`.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let (_, directory) = self
            .directories
            .iter()
            .find(|(known, _)| *known == name)
            .with_context(|| format!("no program is called {name}"))?;
        Ok(directory.join(name))
    }
}

/// Builds what the cache lacks.
pub fn programs(cache: &Cache) -> Result<Programs> {
    let mut directories = Vec::new();
    for program in &PROGRAMS {
        let module = checkout().join("tests/node-image").join(program.module);
        let inputs = Inputs::default().text(VERSION).text(program.package).path(&module)?;
        let directory = cache.artefact(program.name, &inputs, |room| {
            build(cache, program, &module, &room.join(program.name))
        })?;
        directories.push((program.name, directory));
    }
    Ok(Programs { directories })
}

fn build(cache: &Cache, program: &Program, module: &Path, to: &Path) -> Result<()> {
    progress::run(
        format!("building {} {}", program.name, program.note).trim(),
        Command::new("go")
            .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &link_flags()])
            .arg("-o")
            .arg(to)
            .arg(program.package)
            .env("CGO_ENABLED", "0")
            .current_dir(module),
        &cache.logs(),
    )?;
    anyhow::ensure!(fs::metadata(to)?.len() > 0, "{} is empty", to.display());
    Ok(())
}

/// kubeadm compares versions, so the components must know theirs.
fn link_flags() -> String {
    let package = "k8s.io/component-base/version";
    let mut parts = VERSION.trim_start_matches('v').split('.');
    let major = parts.next().unwrap_or_default();
    let minor = parts.next().unwrap_or_default();
    [
        ("gitVersion", VERSION),
        ("gitMajor", major),
        ("gitMinor", minor),
        ("gitTreeState", "clean"),
        ("gitCommit", VERSION),
        ("buildDate", "2025-11-12T00:00:00Z"),
    ]
    .iter()
    .fold("-s -w".to_owned(), |flags, (name, value)| format!("{flags} -X {package}.{name}={value}"))
}
