//! `cargo xtask setup`: installs what is missing, and only that.
//!
//! Debian packages by apt, programs of other languages by `cargo install` and `go install`
//! into the cache. What is there already, from wherever, is used as it is.

use crate::cache::Cache;
use crate::progress;
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The linker that makes one eBPF object of Rust code.
pub const BPF_LINKER: &str = "0.10.3";
/// kind: the cluster under test.
pub const KIND: &str = "v0.33.0";

/// A program that a command needs, and the Debian package that has it.
type Needed = (&'static str, &'static str);

const FOR_TESTS: [Needed; 5] = [
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("ethtool", "ethtool"),
    ("iptables", "iptables"),
    // The plugins that stand behind Sluice in a chain, and its rival in the bench of ADD.
    ("/usr/lib/cni/portmap", "containernetworking-plugins"),
];
const FOR_CLUSTER: [Needed; 8] = [
    ("debootstrap", "debootstrap"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("ethtool", "ethtool"),
    ("socat", "socat"),
    ("jq", "jq"),
    ("nsenter", "util-linux"),
];

/// How eBPF programs are compiled on this machine.
pub enum BpfToolChain {
    /// rustup's nightly with rust-src: core is built from source.
    Nightly,
    /// Debian's rustc-web, which brings a core for the BPF target.
    Debian,
}

/// Everything that any command needs.
pub fn everything(cache: &Cache) -> Result<()> {
    require_root()?;
    bpf(cache)?;
    tests()?;
    cluster(cache)
}

/// Refuses, in one sentence, what cannot work.
pub fn require_root() -> Result<()> {
    if !cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))) {
        bail!("Sluice is built and tested on Linux, x86_64 or aarch64, and nowhere else");
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let root = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"));
    if !root {
        bail!(
            "this needs root (eBPF, network namespaces, packages): run it with sudo -E or as root"
        );
    }
    Ok(())
}

/// The eBPF tool chain: what rustup has, else Debian's packages; and bpf-linker.
pub fn bpf(cache: &Cache) -> Result<BpfToolChain> {
    let tool_chain = if has_nightly_source() {
        BpfToolChain::Nightly
    } else {
        let target = "/usr/lib/rustlib/bpfel-unknown-none";
        if !Path::new(target).exists() {
            apt(&["rustc-web", "libstd-rust-web-dev-bpf"])?;
        }
        BpfToolChain::Debian
    };
    bpf_linker(cache)?;
    Ok(tool_chain)
}

fn has_nightly_source() -> bool {
    progress::output(Command::new("rustc").args(["+nightly", "--print", "sysroot"])).is_ok_and(
        |sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists(),
    )
}

/// The directory that has bpf-linker; installs it where there is none of this version.
pub fn bpf_linker(cache: &Cache) -> Result<PathBuf> {
    let root = cache.room("tools")?.join(format!("bpf-linker-{BPF_LINKER}"));
    if !root.join("bin/bpf-linker").exists() {
        progress::run(
            "installing bpf-linker",
            Command::new("cargo")
                .args(["install", "bpf-linker", "--locked", "--version", BPF_LINKER, "--root"])
                .arg(&root),
            &cache.logs(),
        )?;
    }
    Ok(root.join("bin"))
}

/// What packet and namespace tests call.
pub fn tests() -> Result<()> {
    packages(&FOR_TESTS)
}

/// What a cluster needs: kind, an engine where no Docker answers, and what builds a node image.
pub fn cluster(cache: &Cache) -> Result<()> {
    packages(&FOR_CLUSTER)?;
    if !on_path("docker")
        || (!progress::succeeds(Command::new("docker").arg("info")) && !on_path("dockerd"))
    {
        apt(&["docker.io"])?;
    }
    let kind = cache.room("tools")?.join(format!("kind-{KIND}"));
    if !kind.join("kind").exists() {
        progress::run(
            "installing kind",
            Command::new("go")
                .args(["install", &format!("sigs.k8s.io/kind@{KIND}")])
                .env("GOBIN", &kind)
                .env("CGO_ENABLED", "0"),
            &cache.logs(),
        )?;
    }
    let link = cache.room("bin")?.join("kind");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(kind.join("kind"), link)?;
    Ok(())
}

/// Whether a program is found on the PATH (or where Debian keeps those for root).
pub fn on_path(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|room| Path::new(room).join(program).exists())
}

fn packages(needed: &[Needed]) -> Result<()> {
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(program, _)| !on_path(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() { Ok(()) } else { apt(&missing) }
}

/// Installs Debian packages; services that come with them are not started by this.
fn apt(packages: &[&str]) -> Result<()> {
    if !on_path("apt-get") {
        bail!("{} must be installed, and there is no apt-get here to do it", packages.join(", "));
    }
    let logs = std::env::temp_dir();
    let install = format!(
        "export DEBIAN_FRONTEND=noninteractive; apt-get update -q && \
         apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    progress::run(
        &format!("installing {}", packages.join(", ")),
        Command::new("sh").args(["-c", &install]),
        &logs,
    )
}
