//! Debian root file systems from package lists, as layer tars.
//!
//! In: a list of packages (one a line, `#` comments). Out: `rootfs.tar` in the cache, owners
//! kept, times set to zero. debootstrap runs in a mount namespace of its own.

use crate::cache::{Cache, Inputs};
use crate::progress;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";

/// What a container never reads; a third of the size.
const LEFT_OUT: [&str; 6] = [
    "./var/cache/apt/*",
    "./var/lib/apt/lists/*",
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
    "./var/log/*",
];

/// The packages that a list file names.
fn packages(list: &Path) -> Result<Vec<String>> {
    let text =
        fs::read_to_string(list).with_context(|| format!("cannot read {}", list.display()))?;
    Ok(text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

/// The root file system with the packages of `list`, as a tar in the cache.
pub fn debian(cache: &Cache, name: &str, list: &Path) -> Result<PathBuf> {
    let packages = packages(list)?;
    let inputs = Inputs::default().text(SUITE).text(MIRROR).text("1").path(list)?;
    let directory = cache.artefact(&format!("rootfs-{name}"), &inputs, |room| {
        let root = room.join("root");
        progress::run(
            &format!("Debian {SUITE} for {name}"),
            Command::new("unshare")
                .args(["--mount", "--propagation", "private", "debootstrap"])
                .args(["--variant=minbase", &format!("--include={}", packages.join(","))])
                .arg(SUITE)
                .arg(&root)
                .arg(MIRROR),
            &cache.logs(),
        )?;
        pack(&root, &room.join("rootfs.tar"), cache)?;
        fs::remove_dir_all(&root)?;
        Ok(())
    })?;
    Ok(directory.join("rootfs.tar"))
}

/// Packs a directory as a layer: sorted, owners by number, times zero.
fn pack(root: &Path, tar: &Path, cache: &Cache) -> Result<()> {
    let mut command = Command::new("tar");
    command.arg("--create").arg("--file").arg(tar).arg("--directory").arg(root).args([
        "--sort=name",
        "--mtime=@0",
        "--numeric-owner",
        "--one-file-system",
    ]);
    for pattern in LEFT_OUT {
        command.arg(format!("--exclude={pattern}"));
    }
    let (status, log) = progress::run_quietly("packing", command.arg("."), &cache.logs())?;
    anyhow::ensure!(status.success(), "tar failed: {}", progress::last_lines(&log, 3));
    Ok(())
}
