//! Kubernetes built from Go modules, for machines that cannot pull a node image.
//!
//! Input: the Go modules below tests/node-image. Output: static programs in the cache:
//! `kubernetes` (every component in one), `coredns`, `agnhost`, `pause`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, Inputs, checkout};
use crate::process;

/// Release of the modules in tests/node-image/kubernetes/go.mod.
pub const VERSION: &str = "v1.34.2";
/// Tag of the etcd image that kubeadm of this release uses.
pub const ETCD: &str = "3.6.5-0";
/// Tag of the sandbox image that kubeadm of this release uses.
pub const PAUSE: &str = "3.10.1";
/// Tag of the CoreDNS image that kubeadm of this release uses.
pub const COREDNS: &str = "v1.12.1";

struct Program {
    name: &'static str,
    /// Folder of the Go module below tests/node-image.
    module: &'static str,
    package: &'static str,
    /// Duration of a build with empty caches on two cores.
    duration: &'static str,
}

const PROGRAMS: [Program; 4] = [
    Program { name: "kubernetes", module: "kubernetes", package: ".", duration: "8 min" },
    Program {
        name: "agnhost",
        module: "kubernetes",
        package: "k8s.io/kubernetes/test/images/agnhost",
        duration: "2 min",
    },
    Program { name: "coredns", module: "coredns", package: ".", duration: "1 min" },
    Program { name: "pause", module: "pause", package: ".", duration: "5 s" },
];

/// The paths of the programs, by name.
pub struct Programs {
    directories: Vec<(&'static str, PathBuf)>,
}

impl Programs {
    /// The path of the program `name`.
    ///
    /// # Errors
    /// When no program has this name.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let (_, directory) = self
            .directories
            .iter()
            .find(|(known, _)| *known == name)
            .with_context(|| format!("no program is called {name}"))?;
        Ok(directory.join(name))
    }
}

/// Builds the programs that are not in the cache.
///
/// # Errors
/// When a build fails.
pub fn programs(cache: &Cache) -> Result<Programs> {
    let mut directories = Vec::new();
    for program in &PROGRAMS {
        let module = checkout().join("tests/node-image").join(program.module);
        let inputs = Inputs::default().text(VERSION).text(program.package).path(&module)?;
        let directory = cache.artifact(program.name, &inputs, |folder| {
            build(cache, program, &module, &folder.join(program.name))
        })?;
        directories.push((program.name, directory));
    }
    Ok(Programs { directories })
}

fn build(cache: &Cache, program: &Program, module: &Path, to: &Path) -> Result<()> {
    process::run(
        &format!("building {} (about {})", program.name, program.duration),
        Command::new("go")
            .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &link_flags()])
            .arg("-o")
            .arg(to)
            .arg(program.package)
            .env("CGO_ENABLED", "0")
            .current_dir(module),
        &cache.logs(),
        process::BUILD,
    )?;
    anyhow::ensure!(fs::metadata(to)?.len() > 0, "{} is empty", to.display());
    Ok(())
}

/// Linker flags that set the version. kubeadm compares the versions of the components.
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
