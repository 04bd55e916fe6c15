//! Debian root file systems from package lists.
//!
//! Input: a file with one package per line and `#` comments. Output: a tar in the cache that
//! serves as the lowest layer of an image. mmdebstrap runs in a mount namespace of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, Inputs};
use crate::process;

const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";

/// Options of mmdebstrap. Documentation and translations are a third of the size.
const OPTIONS: [&str; 6] = [
    "--mode=root",
    "--variant=minbase",
    "--skip=output/dev",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
];

/// Returns the tar of a root file system with the packages of `list`.
///
/// # Errors
/// When the list cannot be read or mmdebstrap fails.
pub fn debian(cache: &Cache, name: &str, list: &Path) -> Result<PathBuf> {
    let text =
        fs::read_to_string(list).with_context(|| format!("cannot read {}", list.display()))?;
    let packages = packages(&text);
    let mut inputs = Inputs::default();
    for text in [SUITE, MIRROR].iter().chain(&OPTIONS).chain(&packages) {
        inputs = inputs.text(text);
    }
    let directory = cache.artifact(&format!("rootfs-{name}"), &inputs, |folder| {
        process::run(
            &format!("Debian {SUITE} for {name}"),
            Command::new("unshare")
                .args(["--mount", "--propagation", "private", "mmdebstrap"])
                .args(OPTIONS)
                .arg(format!("--include={}", packages.join(",")))
                .arg(SUITE)
                .arg(folder.join("rootfs.tar"))
                .arg(MIRROR)
                .env("SOURCE_DATE_EPOCH", "0"),
            &cache.logs(),
            process::BUILD,
        )
    })?;
    Ok(directory.join("rootfs.tar"))
}

fn packages(list: &str) -> Vec<&str> {
    list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[cfg(test)]
mod tests {
    use super::packages;

    #[test]
    fn comments_and_empty_lines_are_not_packages() {
        assert_eq!(packages("# why\nbash\n\n  curl \n"), ["bash", "curl"]);
    }
}
