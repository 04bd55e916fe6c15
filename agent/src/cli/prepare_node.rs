//! `sluice prepare-node`: the one privileged moment, as an init container.
//!
//! What it does survives in the node: a bpffs mount, kernel switches, the CNI binary.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::BPF_FS_MAGIC;
use sluice_abi::pin;

use crate::config::may_be_empty;
use crate::dataplane::probe;
use crate::{cni_files, host};

/// Flags of `sluice prepare-node`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Install the CNI binary here; empty: don't.
    #[arg(long, value_name = "FOLDER", default_value = "/opt/cni/bin", value_parser = may_be_empty())]
    cni_bin_dir: PathBuf,
    /// The CNI binary to install.
    #[arg(long, value_name = "FILE", default_value = "/opt/sluice/sluice-cni")]
    cni_binary: PathBuf,
}

/// Does it; may be repeated.
///
/// # Errors
/// The first step that fails.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let bpffs = Path::new(pin::BPFFS);
    if probe::is_fs(bpffs, BPF_FS_MAGIC) {
        tracing::info!(path = pin::BPFFS, "bpffs is mounted");
    } else {
        fs::create_dir_all(bpffs).with_context(|| format!("create {}", bpffs.display()))?;
        mount(Some("bpf"), bpffs, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount bpffs at {}", bpffs.display()))?;
        tracing::info!(path = pin::BPFFS, "bpffs mounted");
    }
    host::sysctl::enable_forwarding(None)?;
    if !args.cni_bin_dir.as_os_str().is_empty() {
        let written = cni_files::install_binary(&args.cni_binary, &args.cni_bin_dir)?;
        tracing::info!(dir = %args.cni_bin_dir.display(), written, "CNI binary");
    }
    Ok(())
}
