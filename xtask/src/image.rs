//! `cargo xtask image`: the OCI image of Sluice, from nothing but its two programs.

use crate::artefacts;
use crate::cache::{Cache, target};
use crate::oci::{self, Image, Layer};
use crate::progress;
use anyhow::Result;
use std::fs;
use std::path::PathBuf;

/// The name that the manifests in deploy/ use.
pub const NAME: &str = "localhost/sluice:dev";

/// Builds the programs and packs them.
pub fn build(cache: &Cache) -> Result<()> {
    archive(cache).map(drop)
}

/// Like [`build`], and tells where the archive is.
pub fn archive(cache: &Cache) -> Result<PathBuf> {
    artefacts::bpf_object(cache)?;
    let programs = artefacts::programs(cache)?;
    let room = target().join("image");
    fs::create_dir_all(&room)?;
    let path = room.join("sluice.tar");
    progress::step("packing the image", || {
        let layer_path = room.join("layer.tar");
        let mut layer = Layer::create(&layer_path)?;
        layer.program("usr/local/bin/sluice", &programs.agent)?;
        layer.program("opt/sluice/sluice-cni", &programs.cni)?;
        layer.finish()?;
        let image = Image {
            names: vec![NAME.to_owned()],
            layers: vec![layer_path.clone()],
            entrypoint: vec!["/usr/local/bin/sluice".to_owned()],
        };
        oci::write(&[image], &path)?;
        fs::remove_file(layer_path)?;
        Ok(((), format!("{} KiB", fs::metadata(&path)?.len() / 1024)))
    })?;
    println!("  {NAME} is {}", path.display());
    Ok(path)
}
