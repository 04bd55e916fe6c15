//! OCI image layouts as tarballs, written without an engine.
//!
//! Input: layers (files and links, or a finished tar), names, an entry point. Output: one tar that
//! `docker load`, `ctr images import`, `kind load image-archive` and `skopeo` read. The same input
//! gives the same bytes: times are zero, the owner is root, entries keep the order given.
//! Source: OCI image-spec 1.1 (image layout, manifest, configuration). `docker load` before
//! Docker 25 reads `manifest.json` of Docker's image specification 1.2 instead of `index.json`;
//! the archive contains both.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The tar of one layer, written entry by entry. Parent directories are added with mode 0755.
pub struct Layer {
    tar: tar::Builder<BufWriter<File>>,
    directories: BTreeSet<String>,
}

impl Layer {
    /// Creates the file `path`.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { tar: tar::Builder::new(BufWriter::new(file)), directories: BTreeSet::new() })
    }

    /// Adds a directory; `path` ends in a slash.
    ///
    /// # Errors
    /// When the tar cannot be written.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.parents(path.trim_end_matches('/'))?;
        self.directories.insert(path.to_owned());
        let mut header = header(tar::EntryType::Directory, mode, 0);
        Ok(self.tar.append_data(&mut header, path, std::io::empty())?)
    }

    /// Adds an executable file with the contents of `source`.
    ///
    /// # Errors
    /// When `source` cannot be read or the tar cannot be written.
    pub fn program(&mut self, path: &str, source: &Path) -> Result<()> {
        self.parents(path)?;
        let file =
            File::open(source).with_context(|| format!("cannot read {}", source.display()))?;
        let mut header = header(tar::EntryType::Regular, 0o755, file.metadata()?.len());
        Ok(self.tar.append_data(&mut header, path, BufReader::new(file))?)
    }

    /// Adds a file with mode 0644.
    ///
    /// # Errors
    /// When the tar cannot be written.
    pub fn file(&mut self, path: &str, contents: &[u8]) -> Result<()> {
        self.parents(path)?;
        let mut header = header(tar::EntryType::Regular, 0o644, contents.len() as u64);
        Ok(self.tar.append_data(&mut header, path, contents)?)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// When the tar cannot be written.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        Ok(self.tar.append_link(&mut header, path, target)?)
    }

    /// Writes the end of the tar.
    ///
    /// # Errors
    /// When the tar cannot be written.
    pub fn finish(self) -> Result<()> {
        self.tar.into_inner()?.flush()?;
        Ok(())
    }

    /// Engines choose the mode of directories that a layer does not contain.
    fn parents(&mut self, path: &str) -> Result<()> {
        for (end, _) in path.match_indices('/') {
            let parent = path.get(..=end).unwrap_or_default();
            if !self.directories.contains(parent) {
                self.directories.insert(parent.to_owned());
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                self.tar.append_data(&mut header, parent, std::io::empty())?;
            }
        }
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
    /// Full names with tag; each becomes an entry of the index.
    pub names: Vec<String>,
    /// Layer tars, lowest first, uncompressed.
    pub layers: Vec<PathBuf>,
    /// Command of a container that does not set one.
    pub entrypoint: Vec<String>,
    /// Arguments of a container that does not set any.
    pub arguments: Vec<String>,
    /// Environment variables besides PATH, as `NAME=value`.
    pub environment: Vec<String>,
}

impl Image {
    /// An image with one name and, if it is not empty, one entry point.
    pub fn new(name: &str, layers: &[&Path], entrypoint: &str) -> Self {
        Self {
            names: vec![name.to_owned()],
            layers: layers.iter().map(|layer| layer.to_path_buf()).collect(),
            entrypoint: entrypoint.split_whitespace().map(str::to_owned).collect(),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }
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

/// The parts of an image besides its layers.
struct Described {
    names: Vec<String>,
    manifest: Vec<u8>,
    config: Vec<u8>,
    /// Paths of the layers in the archive.
    layers: Vec<String>,
}

/// Writes images into one layout tarball at `path`; a layer that images share is written once.
///
/// # Errors
/// When a layer cannot be read or the archive cannot be written.
pub fn write(images: &[Image], path: &Path) -> Result<()> {
    let mut layers: Vec<(&Path, Blob)> = Vec::new();
    let mut described: Vec<Described> = Vec::new();
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
        described.push(image.describe(&of_image)?);
    }
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": described.iter().flat_map(Described::index_entries).collect::<Vec<_>>(),
    }))?;
    let docker = described.iter().map(Described::docker_entry).collect::<Vec<_>>();

    let mut tar = Layer::create(path)?;
    tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar.file("index.json", &index)?;
    tar.file("manifest.json", &serde_json::to_vec(&docker)?)?;
    let mut written: Vec<String> = Vec::new();
    for bytes in described.iter().flat_map(|image| [&image.manifest, &image.config]) {
        let blob = blob_of_bytes(bytes);
        if !written.contains(&blob.digest) {
            tar.file(&blob.path(), bytes)?;
            written.push(blob.digest);
        }
    }
    for (file, blob) in &layers {
        if !written.contains(&blob.digest) {
            tar.program(&blob.path(), file)?;
            written.push(blob.digest.clone());
        }
    }
    tar.finish()
}

impl Image {
    fn describe(&self, layers: &[&Blob]) -> Result<Described> {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let environment: Vec<&str> =
            [path].into_iter().chain(self.environment.iter().map(String::as_str)).collect();
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.arguments,
                "Env": environment,
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
        let layers = layers.iter().map(|blob| blob.path()).collect();
        Ok(Described { names: self.names.clone(), manifest, config, layers })
    }
}

impl Described {
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

    /// The entry in Docker's `manifest.json`.
    fn docker_entry(&self) -> Value {
        json!({
            "Config": blob_of_bytes(&self.config).path(),
            "RepoTags": self.names,
            "Layers": self.layers,
        })
    }
}

/// The OCI name of this machine's architecture.
fn architecture() -> &'static str {
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

    /// Writes an image with two layers and returns the entries of the archive.
    fn entries(directory: &Path) -> Vec<(String, Vec<u8>)> {
        let (base, top) = (directory.join("base.tar"), directory.join("top.tar"));
        let mut tar = Layer::create(&base).expect("layer");
        tar.directory("tmp/", 0o1777).expect("directory");
        tar.file("usr/bin/hello", b"hello").expect("file");
        tar.finish().expect("layer ends");
        let mut tar = Layer::create(&top).expect("layer");
        tar.link("usr/bin/greet", "hello").expect("link");
        tar.finish().expect("layer ends");
        let image = Image::new("localhost/hello:dev", &[&base, &top], "/usr/bin/hello --loud");
        write(&[image], &directory.join("image.tar")).expect("image");
        let bytes = std::fs::read(directory.join("image.tar")).expect("image exists");
        tar::Archive::new(bytes.as_slice())
            .entries()
            .expect("a tar")
            .map(|entry| {
                let mut entry = entry.expect("an entry");
                let path = entry.path().expect("a path").to_string_lossy().into_owned();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).expect("bytes");
                (path, bytes)
            })
            .collect()
    }

    #[test]
    fn archive_is_reproducible_and_every_reference_names_a_blob() {
        let directory = std::env::temp_dir().join(format!("sluice-oci-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory");
        let archive = entries(&directory);
        assert_eq!(archive, entries(&directory));
        std::fs::remove_dir_all(&directory).expect("removed");

        let find = |path: &str| {
            let entry = archive.iter().find(|(name, _)| name == path);
            entry.map(|(_, bytes)| bytes.as_slice()).unwrap_or_else(|| panic!("no entry {path}"))
        };
        let blobs = archive
            .iter()
            .filter_map(|(path, bytes)| Some((path.strip_prefix("blobs/sha256/")?, bytes)))
            .filter(|(digest, _)| !digest.is_empty());
        for (digest, bytes) in blobs.clone() {
            assert_eq!(blob_of_bytes(bytes).digest, digest);
        }
        assert_eq!(blobs.count(), 4, "manifest, configuration, two layers");

        let docker: Value = serde_json::from_slice(find("manifest.json")).expect("JSON");
        assert_eq!(docker[0]["RepoTags"], json!(["localhost/hello:dev"]));
        let config: Value =
            serde_json::from_slice(find(docker[0]["Config"].as_str().expect("path")))
                .expect("JSON");
        assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/hello", "--loud"]));
        let layers = docker[0]["Layers"].as_array().expect("layers");
        let digests: Vec<String> = layers
            .iter()
            .map(|path| blob_of_bytes(find(path.as_str().expect("path"))).digest)
            .map(|digest| format!("sha256:{digest}"))
            .collect();
        assert_eq!(config["rootfs"]["diff_ids"], json!(digests));

        let base = find(layers[0].as_str().expect("path"));
        let modes: Vec<(String, u32)> = tar::Archive::new(base)
            .entries()
            .expect("a tar")
            .map(|entry| {
                let entry = entry.expect("an entry");
                let path = entry.path().expect("a path").to_string_lossy().into_owned();
                (path, entry.header().mode().expect("a mode"))
            })
            .collect();
        let expected =
            [("tmp/", 0o1777), ("usr/", 0o755), ("usr/bin/", 0o755), ("usr/bin/hello", 0o644)];
        assert_eq!(modes, expected.map(|(path, mode)| (path.to_owned(), mode)));
    }
}
