//! A kernel from its Debian package.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, Inputs};
use crate::process;

/// An extracted kernel package.
pub struct Kernel {
    /// Release, as `uname -r` prints it.
    pub version: String,
    /// The kernel image.
    pub image: PathBuf,
    /// The root of the package: `lib/modules/<version>` is below it.
    pub root: PathBuf,
}

/// Downloads and extracts the newest kernel that a metapackage depends on.
///
/// # Errors
/// When the package does not exist or cannot be downloaded.
pub fn extract(cache: &Cache, metapackage: &str) -> Result<Kernel> {
    let depends = process::output(Command::new("apt-cache").args(["depends", metapackage]))?;
    let package = dependency(&depends)
        .with_context(|| format!("{metapackage} depends on no kernel: run apt-get update"))?;
    let logs = cache.logs();
    let inputs = Inputs::default().text(&package);
    let root = cache.artifact("kernel", &inputs, |root| {
        let step = format!("downloading {package}");
        let mut download = Command::new("apt-get");
        download.current_dir(root).args(["download", &package]);
        process::run(&step, &mut download, &logs, process::STEP)?;
        let archive = fs::read_dir(root)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "deb"))
            .with_context(|| format!("apt-get download left no {package}"))?;
        let mut extract = Command::new("dpkg-deb");
        extract.arg("-x").arg(&archive).arg(root);
        process::run("extracting the kernel", &mut extract, &logs, process::STEP)?;
        fs::remove_file(archive)?;
        let version = version(&package);
        let mut depmod = Command::new("depmod");
        depmod.arg("-b").arg(root).arg(version);
        process::run("indexing its modules", &mut depmod, &logs, process::QUERY)
    })?;
    let version = version(&package).to_owned();
    Ok(Kernel { image: root.join("boot").join(format!("vmlinuz-{version}")), version, root })
}

/// The kernel package in the output of `apt-cache depends`.
fn dependency(depends: &str) -> Option<String> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
}

fn version(package: &str) -> &str {
    package.strip_prefix("linux-image-").unwrap_or(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_is_found_among_the_dependencies() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-50-amd64\n  Suggests: x\n";
        assert_eq!(dependency(text).as_deref(), Some("linux-image-6.1.0-50-amd64"));
        assert_eq!(version("linux-image-6.1.0-50-amd64"), "6.1.0-50-amd64");
        assert_eq!(dependency("linux-image-amd64\n  Depends: libc6\n"), None);
    }
}
