//! `cargo xtask image`: the OCI image of Sluice, from nothing but its two programs.

use crate::artefacts;
use crate::cache::{Cache, Inputs, checkout, target};
use crate::oci::{self, Image, Layer};
use crate::progress;
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};

/// The name that the manifests in deploy/ use.
pub const NAME: &str = "localhost/sluice:dev";

/// What the image is made from, below the checkout.
const SOURCES: [&str; 7] =
    ["Cargo.toml", "Cargo.lock", ".cargo", "ebpf", "agent", "cni-plugin", "xtask/src/image.rs"];

/// Builds the programs and packs them.
pub fn build(cache: &Cache) -> Result<()> {
    archive(cache).map(drop)
}

/// Like [`build`], and tells where the archive is. An archive of the same sources is taken from
/// the cache: a clone without a target directory has its image at once.
pub fn archive(cache: &Cache) -> Result<PathBuf> {
    let mut inputs = Inputs::default().text(std::env::consts::ARCH);
    for source in SOURCES {
        inputs = inputs.text(source).path(&checkout().join(source))?;
    }
    let kept = cache.artefact("sluice-image", &inputs, |room| pack(cache, room))?;
    cache.forget_others("sluice-image", &kept)?;
    let path = target().join("image/sluice.tar");
    fs::create_dir_all(target().join("image"))?;
    fs::copy(kept.join("sluice.tar"), &path)?;
    println!("    {NAME} is {}", path.display());
    Ok(path)
}

fn pack(cache: &Cache, room: &Path) -> Result<()> {
    artefacts::bpf_object(cache)?;
    let programs = artefacts::programs(cache)?;
    progress::step("packing the image", || {
        let layer_path = room.join("layer.tar");
        let mut layer = Layer::create(&layer_path)?;
        layer.program("usr/local/bin/sluice", &programs.agent)?;
        layer.program("opt/sluice/sluice-cni", &programs.cni)?;
        layer.finish()?;
        let path = room.join("sluice.tar");
        let image = Image {
            names: vec![NAME.to_owned()],
            layers: vec![layer_path.clone()],
            entrypoint: vec!["/usr/local/bin/sluice".to_owned()],
        };
        oci::write(&[image], &path)?;
        fs::remove_file(layer_path)?;
        Ok(((), format!("{} KiB", fs::metadata(&path)?.len() / 1024)))
    })
}
