//! `sluice prepare-node`: privileged preparation of a node, run as an init container.
//!
//! Its results outlive the container: the bpffs mount, sysctls and the CNI binary.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::BPF_FS_MAGIC;
use sluice_abi::pin;

use crate::config::may_be_empty;
use crate::kernel::linux::probe;
use crate::kernel::linux::{cni_files, sysctl};
use crate::paths;

/// Flags of `sluice prepare-node`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Directory to install the CNI binary in; empty disables the installation.
    #[arg(long, value_name = "DIR", default_value = paths::CNI_BIN_DIR, value_parser = may_be_empty())]
    cni_bin_dir: PathBuf,
    /// CNI binary to install.
    #[arg(long, value_name = "FILE", default_value = paths::CNI_BINARY)]
    cni_binary: PathBuf,
}

/// Prepares the node; idempotent.
///
/// # Errors
/// A step failed; the following ones are not run.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let bpffs = Path::new(pin::BPFFS);
    if probe::is_fs(bpffs, BPF_FS_MAGIC) {
        tracing::info!(path = pin::BPFFS, "bpffs is already mounted");
    } else {
        fs::create_dir_all(bpffs).with_context(|| format!("create {}", bpffs.display()))?;
        mount(Some("bpf"), bpffs, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount bpffs at {}", bpffs.display()))?;
        tracing::info!(path = pin::BPFFS, "bpffs mounted");
    }
    sysctl::enable_forwarding(None)?;
    if !args.cni_bin_dir.as_os_str().is_empty() {
        let written = cni_files::install_binary(&args.cni_binary, &args.cni_bin_dir)?;
        let dir = args.cni_bin_dir.display();
        if written {
            tracing::info!(%dir, "CNI binary installed");
        } else {
            tracing::info!(%dir, "CNI binary is up to date");
        }
    }
    Ok(())
}
