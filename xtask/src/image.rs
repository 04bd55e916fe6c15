//! `cargo xtask image`: the OCI image of Sluice, which contains its two programs and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cache::{Cache, Inputs, checkout, target};
use crate::oci::{self, Image, Layer};
use crate::{build, progress};

/// Name of the image in the manifests below deploy/.
const NAME: &str = "localhost/sluice:dev";

/// Inputs of the image, relative to the checkout.
const SOURCES: [&str; 7] =
    ["Cargo.toml", "Cargo.lock", ".cargo", "ebpf", "agent", "cni-plugin", "xtask/src/image.rs"];

/// Builds the programs, packs them, and returns the path of the archive. Unchanged sources give
/// the archive in the cache, also in a clone without a target directory.
///
/// # Errors
/// When a build fails or a file cannot be written.
pub fn archive(cache: &Cache) -> Result<PathBuf> {
    let mut inputs = Inputs::default().text(std::env::consts::ARCH);
    for source in SOURCES {
        inputs = inputs.text(source).path(&checkout().join(source))?;
    }
    let cached = cache.artifact("sluice-image", &inputs, |folder| pack(cache, folder))?;
    cache.remove_others("sluice-image", &cached)?;
    let path = target().join("image/sluice.tar");
    fs::create_dir_all(target().join("image"))?;
    fs::copy(cached.join("sluice.tar"), &path)?;
    println!("    {NAME}: {}", path.display());
    Ok(path)
}

fn pack(cache: &Cache, folder: &Path) -> Result<()> {
    let programs = build::programs(cache)?;
    progress::step("packing the image", || {
        let layer_path = folder.join("layer.tar");
        let mut layer = Layer::create(&layer_path)?;
        layer.program("usr/local/bin/sluice", &programs.agent)?;
        layer.program("opt/sluice/sluice-cni", &programs.cni)?;
        layer.finish()?;
        let path = folder.join("sluice.tar");
        oci::write(&[Image::new(NAME, &[&layer_path], "/usr/local/bin/sluice")], &path)?;
        fs::remove_file(layer_path)?;
        Ok(((), format!("{} KiB", fs::metadata(&path)?.len() / 1024)))
    })
}
