//! `cargo xtask setup`: installs what is missing.
//!
//! Debian packages are installed with apt-get, other tools with `cargo install` and `go install`
//! into the cache. A tool that is already on the machine is used as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::cache::{Cache, checkout};
use crate::process;

/// Version of the linker for eBPF objects.
const BPF_LINKER: &str = "0.10.3";
/// Version of kind.
const KIND: &str = "v0.33.0";
/// Version of the dependency checker.
const CARGO_DENY: &str = "0.20.2";
/// Version of the generator of mutations.
const CARGO_MUTANTS: &str = "27.1.0";

/// A program, and the Debian package that contains it.
type Needed = (&'static str, &'static str);

const FOR_TESTS: [Needed; 5] = [
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("ethtool", "ethtool"),
    ("iptables", "iptables"),
    // Chained after Sluice in the CNI tests; ptp is the baseline of the ADD benchmark.
    ("/usr/lib/cni/portmap", "containernetworking-plugins"),
];
const FOR_KERNELS: [Needed; 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
];
const FOR_CLUSTER: [Needed; 8] = [
    ("mmdebstrap", "mmdebstrap"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("ethtool", "ethtool"),
    ("socat", "socat"),
    ("jq", "jq"),
    ("nsenter", "util-linux"),
];

/// The compiler for the BPF target.
pub enum BpfToolchain {
    /// rustup's nightly with rust-src, which compiles `core` from source.
    Nightly,
    /// Debian's rustc-web, which has a compiled `core` for the BPF target.
    Debian,
}

/// Installs what any command needs.
///
/// # Errors
/// When the machine is not supported or an installation fails.
pub fn run(cache: &Cache) -> Result<()> {
    require_platform()?;
    bpf(cache)?;
    tests()?;
    cargo_deny(cache)?;
    cluster(cache)
}

/// Checks the platform.
///
/// # Errors
/// When the platform is not supported.
pub fn require_platform() -> Result<()> {
    if !cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))) {
        bail!("unsupported platform: Sluice is built on Linux, x86_64 and aarch64");
    }
    Ok(())
}

/// Checks platform and user.
///
/// # Errors
/// When the platform is not supported or the user is not root.
pub fn require_root() -> Result<()> {
    require_platform()?;
    let status = fs::read_to_string("/proc/self/status")?;
    let root = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"));
    if !root {
        bail!("root required for eBPF, network namespaces and packages: use sudo -E");
    }
    Ok(())
}

/// Finds or installs the eBPF tool chain: rustup's nightly, else Debian's packages.
///
/// # Errors
/// When an installation fails.
pub fn bpf(cache: &Cache) -> Result<BpfToolchain> {
    let toolchain = if has_nightly_source() {
        BpfToolchain::Nightly
    } else {
        if !Path::new("/usr/lib/rustlib/bpfel-unknown-none").exists() {
            apt(&["rustc-web", "libstd-rust-web-dev-bpf"])?;
        }
        BpfToolchain::Debian
    };
    bpf_linker(cache)?;
    Ok(toolchain)
}

/// Installs what builds programs for machines of another architecture: its C compiler and library
/// from Debian, Rust's standard library by rustup.
///
/// # Errors
/// When an installation fails, or rustup is not installed or cannot download.
pub fn cross(cache: &Cache, arch: Arch) -> Result<()> {
    if arch == Arch::HOST {
        return Ok(());
    }
    let (triple, compiler) = (arch.triple(), arch.cross_compiler());
    if !on_path(&compiler) {
        apt(&arch.cross_packages())?;
    }
    let sysroot = process::output(
        Command::new("rustc").args(["--print", "sysroot"]).current_dir(checkout()),
    )?;
    if Path::new(&sysroot).join("lib/rustlib").join(&triple).join("lib").exists() {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", &triple]).current_dir(checkout());
    process::run(&format!("installing {triple}"), &mut rustup, &cache.logs(), process::STEP)
        .with_context(|| format!("the compiler has no standard library for {triple}"))
}

fn has_nightly_source() -> bool {
    process::output(Command::new("rustc").args(["+nightly", "--print", "sysroot"])).is_ok_and(
        |sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists(),
    )
}

/// Returns the directory of bpf-linker, which is installed if it does not exist.
///
/// # Errors
/// When the installation fails.
pub fn bpf_linker(cache: &Cache) -> Result<PathBuf> {
    cargo_install(cache, "bpf-linker", BPF_LINKER)
}

/// Returns the path of cargo-deny, which is installed if it does not exist.
///
/// # Errors
/// When the installation fails.
pub fn cargo_deny(cache: &Cache) -> Result<PathBuf> {
    Ok(cargo_install(cache, "cargo-deny", CARGO_DENY)?.join("cargo-deny"))
}

/// Returns the path of cargo-mutants, which is installed if it does not exist.
///
/// # Errors
/// When the installation fails.
pub fn cargo_mutants(cache: &Cache) -> Result<PathBuf> {
    Ok(cargo_install(cache, "cargo-mutants", CARGO_MUTANTS)?.join("cargo-mutants"))
}

fn cargo_install(cache: &Cache, name: &str, version: &str) -> Result<PathBuf> {
    let root = cache.folder("tools")?.join(format!("{name}-{version}"));
    if !root.join("bin").join(name).exists() {
        process::run(
            &format!("installing {name}"),
            Command::new("cargo")
                .args(["install", name, "--locked", "--version", version, "--root"])
                .arg(&root),
            &cache.logs(),
            process::BUILD,
        )?;
    }
    Ok(root.join("bin"))
}

/// Installs what packet and namespace tests call.
///
/// # Errors
/// When the installation fails.
pub fn tests() -> Result<()> {
    packages(&FOR_TESTS)
}

/// Installs the emulator for other kernels, and what the tests in it call.
///
/// # Errors
/// When the installation fails.
pub fn kernels() -> Result<()> {
    packages(&FOR_TESTS)?;
    packages(&FOR_KERNELS)
}

/// Whether the machine's own Docker answers to this user. Clusters on it need neither root nor
/// packages.
pub fn docker_answers() -> bool {
    process::succeeds(Command::new("docker").arg("info"))
}

/// Installs what builds a node image.
///
/// # Errors
/// When an installation fails or the user is not root.
pub fn node_image() -> Result<()> {
    require_root()?;
    packages(&FOR_CLUSTER)
}

/// Installs kind, and Docker where there is none.
///
/// # Errors
/// When an installation fails, or the user is not root on a machine without Docker.
pub fn cluster(cache: &Cache) -> Result<()> {
    if !docker_answers() {
        node_image()?;
        if !on_path("docker") || !on_path("dockerd") {
            apt(&["docker.io"])?;
        }
    }
    let kind = cache.folder("tools")?.join(format!("kind-{KIND}"));
    if !kind.join("kind").exists() {
        process::run(
            "installing kind",
            Command::new("go")
                .args(["install", &format!("sigs.k8s.io/kind@{KIND}")])
                .env("GOBIN", &kind)
                .env("CGO_ENABLED", "0"),
            &cache.logs(),
            process::BUILD,
        )?;
    }
    let link = cache.folder("bin")?.join("kind");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(kind.join("kind"), link)?;
    Ok(())
}

/// Whether a program exists on the PATH or in Debian's directories for root.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|dir| Path::new(dir).join(program).exists())
}

fn packages(needed: &[Needed]) -> Result<()> {
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(program, _)| !on_path(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() { Ok(()) } else { apt(&missing) }
}

fn apt(packages: &[&str]) -> Result<()> {
    if !on_path("apt-get") {
        bail!("no apt-get on this machine; install these Debian packages: {}", packages.join(", "));
    }
    require_root().with_context(|| format!("cannot install {}", packages.join(", ")))?;
    let install = format!(
        "export DEBIAN_FRONTEND=noninteractive; apt-get update -q && \
         apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    process::run(
        &format!("installing {}", packages.join(", ")),
        Command::new("sh").args(["-c", &install]),
        &std::env::temp_dir(),
        process::BUILD,
    )
}
