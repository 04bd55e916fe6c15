//! `cargo xtask kernels`: load, packet and namespace tests on packaged kernels, in an emulator.
//!
//! ```text
//! package ----> vmlinuz, modules ----> initramfs with busybox and the modules for 9p and overlay
//! machine's root file system --9p, read-only--> lower layer of the guest's root; writes go to memory
//! test binaries (built on the host) run in the guest; results are read from its console
//! ```
//! Not part of CI: an emulated guest is about ten times slower than the machine. Its tests have ten
//! times their deadlines; those of floods, of random packets, of events per time and of traffic without
//! a pause are skipped. `--kvm` uses the hardware where that works.

mod binaries;
mod guest;
mod package;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::cache::Cache;
use crate::{progress, setup};

/// A kernel series, and the Debian metapackage that depends on its newest version.
const KERNELS: [(&str, &str); 2] =
    [("6.1", "linux-image-amd64"), ("6.12", "linux-image-6.12-amd64")];

/// Options of `cargo xtask kernels`.
#[derive(Args)]
pub struct Options {
    /// Only this series; may be repeated
    #[arg(long, value_name = "SERIES")]
    kernel: Vec<String>,
    /// Tests to run
    #[arg(long, value_enum, default_value_t = Suite::Packet)]
    suite: Suite,
    /// Only this test binary, such as `cni`; may be repeated
    #[arg(long, value_name = "NAME")]
    tests: Vec<String>,
    /// Only tests whose names contain this text; may be repeated
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// Only with JIT hardening (net.core.bpf_jit_harden=2); by default the programs are loaded with
    /// and without it
    #[arg(long)]
    jit_hardening: bool,
    /// Use the machine's hardware virtualization instead of an emulator
    #[arg(long)]
    kvm: bool,
}

/// Tests for the guest, each including the ones before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Suite {
    /// Loading every program
    Load,
    /// The packet level
    Packet,
    /// The packet and the namespace level
    Netns,
}

/// Runs the suite on each kernel and prints a line per run.
///
/// # Errors
/// When a kernel or a test binary is missing.
pub fn run(cache: &Cache, options: &Options) -> Result<ExitCode> {
    setup::require_root()?;
    if !cfg!(target_arch = "x86_64") {
        bail!("kernels are tested on x86_64 only");
    }
    let kernels: Vec<_> = KERNELS
        .into_iter()
        .filter(|(series, _)| {
            options.kernel.is_empty() || options.kernel.iter().any(|k| k == series)
        })
        .collect();
    if kernels.is_empty() {
        let known: Vec<_> = KERNELS.iter().map(|(series, _)| *series).collect();
        bail!(
            "--kernel {}: the packaged series are {}",
            options.kernel.join(" "),
            known.join(", ")
        );
    }
    setup::kernels()?;
    let mut compiled = binaries::build(cache, options.suite)?;
    for name in &options.tests {
        ensure!(compiled.iter().any(|b| b.name == *name), "the suite has no test binary {name}");
    }
    compiled.retain(|b| options.tests.is_empty() || options.tests.contains(&b.name));
    let mut failed = 0;
    for (series, metapackage) in kernels {
        let kernel = package::extract(cache, metapackage)?;
        let hardening: &[bool] = if options.jit_hardening { &[true] } else { &[false, true] };
        for &jit_hardening in hardening {
            // Hardening changes the compiled code only: loading the programs shows what it affects.
            let load_only = jit_hardening && !options.jit_hardening;
            let selected = compiled.iter().filter(|b| !load_only || b.suite == Suite::Load);
            let selected: Vec<_> = selected.collect();
            if selected.is_empty() {
                continue;
            }
            let start = Instant::now();
            let script = binaries::script(&selected, jit_hardening, !options.kvm, &options.filter);
            if !options.kvm {
                println!("  not run in an emulator: {}", binaries::TOO_SLOW.join(", "));
            }
            let console = guest::boot(cache, &kernel, &script, options.kvm)?;
            let tally = binaries::tally(&selected, &console);
            failed += tally.failed;
            let name = format!("{series} ({})", kernel.version);
            let jit = if jit_hardening { "JIT hardening" } else { "JIT" };
            progress::line(&name, &format!("{jit}: {tally}"), start.elapsed());
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
