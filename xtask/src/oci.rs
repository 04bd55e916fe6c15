//! OCI image layouts as tarballs, written without an engine.
//!
//! In: layers (files and links, or a finished tar), names, a start command. Out: one tar that
//! `ctr images import`, `kind load image-archive` and `skopeo` read. Same input, same bytes:
//! times are zero, owners root, entries in the order given.
//! Source: OCI image-spec 1.1 (image layout, manifest, configuration).

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Writes one layer's tar, entry by entry.
pub struct Layer {
    tar: tar::Builder<BufWriter<File>>,
}

impl Layer {
    /// Starts a layer in the file `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { tar: tar::Builder::new(BufWriter::new(file)) })
    }

    /// Adds a directory, mode 0755 (or what `mode` says).
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        Ok(self.tar.append_data(&mut header, path, std::io::empty())?)
    }

    /// Adds an executable file with the bytes of `source`.
    pub fn program(&mut self, path: &str, source: &Path) -> Result<()> {
        let file =
            File::open(source).with_context(|| format!("cannot read {}", source.display()))?;
        let mut header = header(tar::EntryType::Regular, 0o755, file.metadata()?.len());
        Ok(self.tar.append_data(&mut header, path, BufReader::new(file))?)
    }

    /// Adds a file that only its owner writes.
    pub fn text(&mut self, path: &str, text: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, 0o644, text.len() as u64);
        Ok(self.tar.append_data(&mut header, path, text.as_bytes())?)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        Ok(self.tar.append_link(&mut header, path, target)?)
    }

    /// Ends the layer.
    pub fn finish(self) -> Result<()> {
        self.tar.into_inner()?.flush()?;
        Ok(())
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// An image to be written.
pub struct Image {
    /// Full names with tag: each becomes an entry of the index.
    pub names: Vec<String>,
    /// Layer tars, lowest first, uncompressed.
    pub layers: Vec<PathBuf>,
    /// The command a container starts with when the pod names none.
    pub entrypoint: Vec<String>,
}

struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.size })
    }
}

/// What of an image goes into the archive besides its layers.
struct Written {
    names: Vec<String>,
    manifest: Vec<u8>,
    config: Vec<u8>,
}

/// Writes images into one layout tarball at `path`; a layer that several share is in it once.
pub fn write(images: &[Image], path: &Path) -> Result<()> {
    let mut layers: Vec<(&Path, Blob)> = Vec::new();
    let mut written: Vec<Written> = Vec::new();
    for image in images {
        for layer in &image.layers {
            if !layers.iter().any(|(known, _)| known == layer) {
                layers.push((layer, blob_of_file(layer)?));
            }
        }
        let of_image: Vec<&Blob> = image
            .layers
            .iter()
            .filter_map(|layer| layers.iter().find(|(known, _)| known == layer))
            .map(|(_, blob)| blob)
            .collect();
        written.push(image.describe(&of_image)?);
    }
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": written.iter().flat_map(Written::index_entries).collect::<Vec<_>>(),
    }))?;

    let mut tar = Layer::create(path)?;
    tar.text("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar.bytes("index.json", &index)?;
    let mut there: Vec<String> = Vec::new();
    for bytes in written.iter().flat_map(|image| [&image.manifest, &image.config]) {
        let blob = blob_of_bytes(bytes);
        if !there.contains(&blob.digest) {
            tar.bytes(&blob.path(), bytes)?;
            there.push(blob.digest);
        }
    }
    for (file, blob) in &layers {
        if !there.contains(&blob.digest) {
            tar.program(&blob.path(), file)?;
            there.push(blob.digest.clone());
        }
    }
    tar.finish()
}

impl Image {
    fn describe(&self, layers: &[&Blob]) -> Result<Written> {
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter().map(|b| format!("sha256:{}", b.digest)).collect::<Vec<_>>(),
            },
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": blob_of_bytes(&config)
                .descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": layers.iter()
                .map(|b| b.descriptor("application/vnd.oci.image.layer.v1.tar"))
                .collect::<Vec<_>>(),
        }))?;
        Ok(Written { names: self.names.clone(), manifest, config })
    }
}

impl Written {
    fn index_entries(&self) -> Vec<Value> {
        let entry = |name: &String| {
            let mut entry = blob_of_bytes(&self.manifest).descriptor(MANIFEST);
            entry["annotations"] = json!({
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name.rsplit_once(':').map_or("", |n| n.1),
            });
            entry
        };
        self.names.iter().map(entry).collect()
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Layer {
    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
        Ok(self.tar.append_data(&mut header, path, bytes)?)
    }
}

/// The machine's architecture under its OCI name.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn blob_of_bytes(bytes: &[u8]) -> Blob {
    Blob { digest: hex(Sha256::digest(bytes).as_slice()), size: bytes.len() as u64 }
}

fn blob_of_file(path: &Path) -> Result<Blob> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(buffer.get(..count).unwrap_or_default());
        size += count as u64;
    }
    Ok(Blob { digest: hex(hash.finalize().as_slice()), size })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path) -> Vec<u8> {
        let layer = directory.join("layer.tar");
        let mut tar = Layer::create(&layer).expect("layer");
        tar.directory("bin/", 0o755).expect("directory");
        tar.text("bin/hello", "hello").expect("file");
        tar.link("bin/greet", "hello").expect("link");
        tar.finish().expect("layer ends");
        let image = Image {
            names: vec!["localhost/hello:dev".to_owned()],
            layers: vec![layer],
            entrypoint: vec!["/bin/hello".to_owned()],
        };
        super::write(&[image], &directory.join("image.tar")).expect("image");
        std::fs::read(directory.join("image.tar")).expect("image is there")
    }

    #[test]
    fn same_input_same_bytes_and_every_digest_names_its_blob() {
        let directory = std::env::temp_dir().join(format!("sluice-oci-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory");
        let first = write(&directory);
        assert_eq!(first, write(&directory));

        let mut blobs = 0;
        for entry in tar::Archive::new(first.as_slice()).entries().expect("a tar") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("bytes");
            if let Some(digest) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(blob_of_bytes(&bytes).digest, digest);
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3, "manifest, configuration, layer");
        std::fs::remove_dir_all(&directory).expect("directory goes");
    }
}
