//! `cargo xtask image`: the OCI image of Sluice, which contains its two programs and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use crate::arch::Arch;
use crate::cache::{Cache, Inputs, checkout, target};
use crate::oci::{self, Image, Layer};
use crate::{build, progress, revision};

/// Name of the image in the manifests below deploy/.
const NAME: &str = "localhost/sluice:dev";

/// What the image depends on, besides the sources of the programs.
const PACKING: [&str; 2] = ["xtask/src/image.rs", "xtask/src/oci"];

/// Options of `cargo xtask image`.
#[derive(Args)]
pub struct Options {
    /// Architectures of the nodes, separated by commas (default: that of this machine); the archive is
    /// target/image/sluice-<ARCH>-<ARCH>.tar
    #[arg(long, value_name = "ARCH", value_enum, value_delimiter = ',')]
    arch: Vec<Arch>,
}

/// Runs the command.
///
/// # Errors
/// When a tool chain cannot be installed, a build fails or a file cannot be written.
pub fn run(cache: &Cache, options: &Options) -> Result<()> {
    let mut archs = options.arch.clone();
    if archs.is_empty() {
        return archive(cache).map(drop);
    }
    archs.sort();
    archs.dedup();
    let names: Vec<&str> = archs.iter().map(|arch| arch.name()).collect();
    archive_of(cache, "sluice-images", &archs, &format!("sluice-{}.tar", names.join("-"))).map(drop)
}

/// Builds the programs for this machine, packs them, and returns the path of the archive. Unchanged
/// sources give the archive in the cache, also in a clone without a target directory.
///
/// # Errors
/// When a build fails or a file cannot be written.
pub fn archive(cache: &Cache) -> Result<PathBuf> {
    archive_of(cache, "sluice-image", &[Arch::HOST], "sluice.tar")
}

fn archive_of(cache: &Cache, artifact: &str, archs: &[Arch], file: &str) -> Result<PathBuf> {
    let revision = revision::of_sources();
    let mut inputs = Inputs::default().text(&revision);
    for arch in archs {
        inputs = inputs.text(arch.name());
    }
    for source in revision::SOURCES.into_iter().chain(PACKING) {
        inputs = inputs.text(source).path(&checkout().join(source))?;
    }
    let make = |folder: &Path| pack(cache, archs, &revision, folder);
    let cached = cache.artifact(artifact, &inputs, make)?;
    cache.remove_others(artifact, &cached)?;
    let path = target().join("image").join(file);
    fs::create_dir_all(target().join("image"))?;
    fs::copy(cached.join("sluice.tar"), &path)?;
    println!("    {NAME}: {}", path.display());
    Ok(path)
}

fn pack(cache: &Cache, archs: &[Arch], revision: &str, folder: &Path) -> Result<()> {
    let mut images = Vec::new();
    for &arch in archs {
        let programs = build::programs_for(cache, arch)?;
        let path = folder.join(arch.name());
        let mut layer = Layer::create(&path)?;
        layer.program("usr/local/bin/sluice", &programs.agent)?;
        layer.program("opt/sluice/sluice-cni", &programs.cni)?;
        layer.finish()?;
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("revision", revision)];
        images.push(Image {
            labels: labels.map(|(key, value)| (key, value.to_owned())).to_vec(),
            arch,
            ..Image::new(NAME, &[&path], "/usr/local/bin/sluice")
        });
    }
    progress::step("packing the image", || {
        let path = folder.join("sluice.tar");
        match images.as_slice() {
            [_] => oci::write(&images, &path)?,
            _ => oci::write_multi_arch(&images, &path)?,
        }
        for arch in archs {
            fs::remove_file(folder.join(arch.name()))?;
        }
        Ok(((), format!("{} KiB", fs::metadata(&path)?.len() / 1024)))
    })
}
