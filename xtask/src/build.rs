//! `cargo xtask build`: the eBPF object, the agent, the CNI binary.
//!
//! The object comes first: the build of the agent embeds `target/bpf/sluice.o`. Both programs are
//! linked statically against the GNU C library, so they run in an empty image and on any node of their
//! architecture. The object is that of every architecture.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::arch::Arch;
use crate::cache::{Cache, checkout, target};
use crate::setup::{self, BpfToolchain};
use crate::{process, revision};

/// The runtime reads the CNI binary from disk for every pod that starts.
const CNI_SIZE_LIMIT: u64 = 3 << 20;

/// Environment variable with the path of the eBPF object.
pub const OBJECT_VARIABLE: &str = "SLUICE_BPF_OBJECT";

/// What Sluice consists of.
pub struct Programs {
    /// The eBPF object, which the agent embeds.
    pub object: PathBuf,
    /// The agent and command line, `sluice`.
    pub agent: PathBuf,
    /// The CNI binary, `sluice-cni`.
    pub cni: PathBuf,
}

impl Programs {
    /// Environment variables by which tests and benchmarks find the files.
    pub fn environment(&self) -> [(&'static str, &Path); 3] {
        [
            (OBJECT_VARIABLE, &self.object),
            ("SLUICE_AGENT_BIN", &self.agent),
            ("SLUICE_CNI_BIN", &self.cni),
        ]
    }
}

/// Agent and CNI binary of another ABI version, for tests of migration.
pub struct NextPrograms {
    agent: PathBuf,
    cni: PathBuf,
}

impl NextPrograms {
    /// Environment variables by which tests find the files.
    pub fn environment(&self) -> [(&'static str, &Path); 2] {
        [("SLUICE_NEXT_AGENT_BIN", &self.agent), ("SLUICE_NEXT_CNI_BIN", &self.cni)]
    }
}

/// Builds the object and the programs with the feature `abi-next`, and copies the programs to
/// `target/next`. They share the compiled dependencies of ordinary builds, and are overwritten where
/// cargo places programs by the next one. Our own crates are optimized less: no test measures these programs,
/// and they are built in half of the time.
///
/// # Errors
/// When the tool chain cannot be installed or a build fails.
pub fn next_programs(cache: &Cache) -> Result<NextPrograms> {
    let features = ["--features", "abi-next"];
    let object = object(cache, "ebpf-next", &features, "sluice-next.o")?;
    let folder = target().join("next");
    fs::create_dir_all(&folder)?;
    let build = |package: &str, bin: &str, profile: &str| -> Result<PathBuf> {
        let mut command = static_build(package, bin, profile, Arch::HOST);
        // Without the revision, a commit does not compile them again.
        command.args(features).env(OBJECT_VARIABLE, &object).env_remove(revision::VARIABLE);
        for member in ["sluice-agent", "sluice-core"] {
            command.arg("--config").arg(format!("profile.release.package.{member}.opt-level=1"));
        }
        let title = format!("building {bin} of the next ABI");
        process::run(&title, &mut command, &cache.logs(), process::BUILD)?;
        let built = built(bin, profile, Arch::HOST);
        let path = folder.join(bin);
        fs::copy(&built, &path).with_context(|| format!("cannot copy {}", built.display()))?;
        Ok(path)
    };
    let agent = build("sluice-agent", "sluice", "release")?;
    let cni = build("sluice-cni", "sluice-cni", "cni")?;
    Ok(NextPrograms { agent, cni })
}

/// Options of `cargo xtask build`.
#[derive(Args)]
pub struct Options {
    /// Build an agent for debugging, with programs that log each verdict, to
    /// target/<triple>/debug/sluice
    #[arg(long)]
    debug_programs: bool,
}

/// Builds the object and the programs, and prints their sizes.
///
/// # Errors
/// When the tool chain cannot be installed or a build fails.
pub fn run(cache: &Cache, options: &Options) -> Result<()> {
    if options.debug_programs {
        return debug_agent(cache);
    }
    print_size(&programs(cache)?.object)
}

/// Builds the eBPF object, copies it to `target/bpf/sluice.o` and returns that path.
///
/// # Errors
/// When the tool chain cannot be installed or the build fails.
pub fn bpf_object(cache: &Cache) -> Result<PathBuf> {
    object(cache, "ebpf", &[], "sluice.o")
}

/// Builds an agent whose programs log each verdict. Neither its object nor its program replaces one
/// of an ordinary build.
fn debug_agent(cache: &Cache) -> Result<()> {
    let object = object(cache, "ebpf-debug", &["--features", "log"], "sluice-debug.o")?;
    print_size(&object)?;
    let mut command = static_build("sluice-agent", "sluice", "dev", Arch::HOST);
    command.args(["--features", "program-log"]).env(OBJECT_VARIABLE, &object);
    process::run("building sluice for debugging", &mut command, &cache.logs(), process::BUILD)?;
    print_size(&built("sluice", "debug", Arch::HOST))
}

/// Builds the eBPF object in a target directory of its own and copies it to `target/bpf/<name>`.
fn object(cache: &Cache, target_dir: &str, features: &[&str], name: &str) -> Result<PathBuf> {
    let toolchain = setup::bpf(cache)?;
    let target_dir = target().join(target_dir);
    let mut command = Command::new("cargo");
    // Flags for the host do not apply to the BPF target.
    command.current_dir(checkout()).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    match toolchain {
        BpfToolchain::Nightly => command.args(["+nightly", "build", "-Z", "build-std=core"]),
        BpfToolchain::Debian => {
            command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1").arg("build")
        }
    };
    command
        .args(["--locked", "--package", "sluice-ebpf", "--bin", "sluice-ebpf"])
        .args(["--profile", "ebpf"])
        .args(["--target", "bpfel-unknown-none", "--target-dir"])
        .arg(&target_dir)
        .args(features)
        .env("PATH", path_with(&setup::bpf_linker(cache)?));
    process::run("building eBPF programs", &mut command, &cache.logs(), process::BUILD)?;
    let built = target_dir.join("bpfel-unknown-none/ebpf/sluice-ebpf");
    let object = target().join("bpf").join(name);
    fs::create_dir_all(target().join("bpf"))?;
    // An unchanged object keeps its modification time, so cargo does not rebuild the agent.
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(&object).ok().as_ref() != Some(&bytes) {
        fs::write(&object, &bytes)?;
    }
    Ok(object)
}

/// Builds the object, then the agent and the CNI binary for this machine.
///
/// # Errors
/// When the tool chain cannot be installed, a build fails or the CNI binary exceeds its size limit.
pub fn programs(cache: &Cache) -> Result<Programs> {
    programs_for(cache, Arch::HOST)
}

/// As [`programs`], for machines of an architecture.
///
/// # Errors
/// As [`programs`].
pub fn programs_for(cache: &Cache, arch: Arch) -> Result<Programs> {
    setup::cross(cache, arch)?;
    let object = bpf_object(cache)?;
    let agent = program(cache, "sluice-agent", "sluice", "release", arch)?;
    let cni = program(cache, "sluice-cni", "sluice-cni", "cni", arch)?;
    let size = fs::metadata(&cni)?.len();
    if size > CNI_SIZE_LIMIT {
        bail!("the CNI binary has {size} bytes; the limit is {CNI_SIZE_LIMIT}");
    }
    Ok(Programs { object, agent, cni })
}

/// Builds one statically linked program for this machine and prints its size.
///
/// # Errors
/// When the build fails.
pub fn static_program(cache: &Cache, package: &str, bin: &str, profile: &str) -> Result<PathBuf> {
    program(cache, package, bin, profile, Arch::HOST)
}

fn program(cache: &Cache, package: &str, bin: &str, profile: &str, arch: Arch) -> Result<PathBuf> {
    let mut command = static_build(package, bin, profile, arch);
    let of_arch = if arch == Arch::HOST { "" } else { arch.name() };
    let title = format!("building {bin} {of_arch}");
    process::run(title.trim_end(), &mut command, &cache.logs(), process::BUILD)?;
    let path = built(bin, profile, arch);
    print_size(&path)?;
    Ok(path)
}

/// Where cargo places a program.
fn built(bin: &str, profile: &str, arch: Arch) -> PathBuf {
    target().join(arch.triple()).join(profile).join(bin)
}

/// The command that builds one statically linked program.
fn static_build(package: &str, bin: &str, profile: &str, arch: Arch) -> Command {
    let triple = arch.triple();
    let mut command = Command::new("cargo");
    if arch != Arch::HOST {
        let variable = triple.replace('-', "_").to_uppercase();
        command.env(format!("CARGO_TARGET_{variable}_LINKER"), arch.cross_compiler());
    }
    command
        .current_dir(checkout())
        .args(["build", "--locked", "--package", package, "--bin", bin, "--profile", profile])
        .args(["--target", &triple])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env(OBJECT_VARIABLE, target().join("bpf/sluice.o"))
        .env(revision::VARIABLE, revision::of_sources());
    command
}

fn print_size(path: &Path) -> Result<()> {
    println!("    {:<60} {:>6} KiB", path.display(), fs::metadata(path)?.len() / 1024);
    Ok(())
}

fn path_with(first: &Path) -> String {
    format!("{}:{}", first.display(), std::env::var("PATH").unwrap_or_default())
}
