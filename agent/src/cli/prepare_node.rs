//! `sluice prepare-node`: privileged preparation of a node, run as an init container.
//!
//! Its results outlive the container: the bpffs mount and sysctls. The agent installs the CNI binary,
//! because a new binary requires programs that have taken over.

use std::fs;
use std::path::Path;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::BPF_FS_MAGIC;
use sluice_abi::pin;

use crate::kernel::linux::{probe, sysctl};

/// Prepares the node; idempotent.
///
/// # Errors
/// A step failed; the following ones are not run.
pub fn run() -> anyhow::Result<()> {
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
    Ok(())
}
