//! `cargo xtask build`: the eBPF object, the agent, the CNI binary.
//!
//! The object is built first: the agent's build embeds the file `target/bpf/sluice.o`. Both
//! programs are linked statically against the gnu C library, so they run in an empty image and
//! on any node.

use crate::cache::{Cache, checkout, target};
use crate::progress;
use crate::setup::{self, BpfToolChain};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A pod's start waits for this file to be read from disk: 3 MiB at most.
const CNI_LIMIT: u64 = 3 << 20;

/// What `build` leaves behind.
pub struct Artefacts {
    /// The agent and command line, `sluice`.
    pub agent: PathBuf,
    /// The CNI binary, `sluice-cni`.
    pub cni: PathBuf,
}

/// Builds everything and prints the sizes.
pub fn build(cache: &Cache) -> Result<()> {
    let object = bpf_object(cache)?;
    println!("    {:<60} {:>6} KiB", object.display(), fs::metadata(&object)?.len() / 1024);
    programs(cache)?;
    Ok(())
}

/// Builds the eBPF object, copies it to `target/bpf/sluice.o` and tells that path.
pub fn bpf_object(cache: &Cache) -> Result<PathBuf> {
    let tool_chain = setup::bpf(cache)?;
    let room = target().join("ebpf");
    let mut command = Command::new("cargo");
    // A RUSTC or flags of ours, meant for the host, must not reach this build.
    command.current_dir(checkout()).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    if matches!(tool_chain, BpfToolChain::Nightly) {
        command.args(["+nightly", "build", "-Z", "build-std=core"]);
    } else {
        command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1").arg("build");
    }
    command
        .args(["--package", "sluice-ebpf", "--bin", "sluice-ebpf", "--profile", "ebpf"])
        .args(["--target", "bpfel-unknown-none", "--target-dir"])
        .arg(&room)
        .env("PATH", path_with(&setup::bpf_linker(cache)?));
    progress::run("building eBPF programs", &mut command, &cache.logs())?;
    let built = room.join("bpfel-unknown-none/ebpf/sluice-ebpf");
    let object = target().join("bpf/sluice.o");
    fs::create_dir_all(target().join("bpf"))?;
    // Written only when it differs, so that the agent is not rebuilt for nothing.
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(&object).ok().as_ref() != Some(&bytes) {
        fs::write(&object, &bytes)?;
    }
    Ok(object)
}

fn path_with(first: &Path) -> String {
    format!("{}:{}", first.display(), std::env::var("PATH").unwrap_or_default())
}

/// Builds the agent and the CNI binary.
pub fn programs(cache: &Cache) -> Result<Artefacts> {
    let agent = static_program(cache, "sluice-agent", "sluice", "release")?;
    let cni = static_program(cache, "sluice-cni", "sluice-cni", "cni")?;
    let size = fs::metadata(&cni)?.len();
    if size > CNI_LIMIT {
        bail!("the CNI binary has {size} bytes, and {CNI_LIMIT} is the limit");
    }
    Ok(Artefacts { agent, cni })
}

/// Builds one program that needs nothing on the machine it runs on, and prints its size.
pub fn static_program(cache: &Cache, package: &str, bin: &str, profile: &str) -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    progress::run(
        &format!("building {bin}"),
        Command::new("cargo")
            .current_dir(checkout())
            .args(["build", "--package", package, "--bin", bin, "--profile", profile])
            .args(["--target", &triple])
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env("SLUICE_BPF_OBJECT", target().join("bpf/sluice.o")),
        &cache.logs(),
    )?;
    let path = target().join(&triple).join(profile).join(bin);
    println!("    {:<60} {:>6} KiB", path.display(), fs::metadata(&path)?.len() / 1024);
    Ok(path)
}
