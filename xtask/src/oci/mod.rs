//! OCI image layouts as tarballs, written without an engine.
//!
//! Input: layers (files and links, or a finished tar), names, an entry point. Output: one tar, of images or
//! of one image for several architectures, that
//! `docker load`, `ctr images import`, `kind load image-archive` and `skopeo` read. The same input
//! gives the same bytes: times are zero, the owner is root, entries keep the order given.
//! Source: OCI image-spec 1.1 (image layout, manifest, configuration). `docker load` before
//! Docker 25 reads `manifest.json` of Docker's image specification 1.2 instead of `index.json`;
//! the archive contains both.

mod layer;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

pub use self::layer::Layer;
use crate::arch::Arch;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

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
    /// Labels, by keys of the OCI image-spec without their prefix `org.opencontainers.image.`.
    pub labels: Vec<(&'static str, String)>,
    /// Architecture of the programs.
    pub arch: Arch,
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
            labels: Vec::new(),
            arch: Arch::HOST,
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
    arch: Arch,
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
    let parts = Parts::of(images)?;
    let entries = parts.images.iter().flat_map(Described::index_entries).collect();
    let docker = parts.images.iter().map(Described::docker_entry).collect::<Vec<_>>();
    parts.write(path, &index(entries)?, &[("manifest.json", serde_json::to_vec(&docker)?)])
}

/// Writes one image for several architectures, each of which has its own [`Image`]. The name is that
/// of the first. Docker's `manifest.json` cannot describe it.
///
/// # Errors
/// When a layer cannot be read or the archive cannot be written.
pub fn write_multi_arch(images: &[Image], path: &Path) -> Result<()> {
    let parts = Parts::of(images)?;
    let of_arch = |image: &Described| {
        let mut entry = blob_of_bytes(&image.manifest).descriptor(MANIFEST);
        entry["platform"] = json!({ "architecture": image.arch.oci(), "os": "linux" });
        entry
    };
    let all = index(parts.images.iter().map(of_arch).collect())?;
    let blob = blob_of_bytes(&all);
    let names = images.first().map_or(&[][..], |image| image.names.as_slice());
    let entries = names.iter().map(|name| named(blob.descriptor(INDEX), name)).collect();
    parts.write(path, &index(entries)?, &[(blob.path().as_str(), all)])
}

fn index(manifests: Vec<Value>) -> Result<Vec<u8>> {
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    Ok(serde_json::to_vec(&index)?)
}

/// A descriptor with the annotations that engines take the name of an image from.
fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rsplit_once(':').map_or("", |n| n.1),
    });
    descriptor
}

/// Images, and the layers of all of them.
struct Parts<'a> {
    images: Vec<Described>,
    layers: Vec<(&'a Path, Blob)>,
}

impl<'a> Parts<'a> {
    fn of(images: &'a [Image]) -> Result<Self> {
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
        Ok(Self { images: described, layers })
    }

    /// Writes the archive with the index and further files.
    fn write(&self, path: &Path, index: &[u8], files: &[(&str, Vec<u8>)]) -> Result<()> {
        let mut tar = Layer::create(path)?;
        tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.file("index.json", index)?;
        for (name, bytes) in files {
            tar.file(name, bytes)?;
        }
        let mut written: Vec<String> = Vec::new();
        for bytes in self.images.iter().flat_map(|image| [&image.manifest, &image.config]) {
            let blob = blob_of_bytes(bytes);
            if !written.contains(&blob.digest) {
                tar.file(&blob.path(), bytes)?;
                written.push(blob.digest);
            }
        }
        for (file, blob) in &self.layers {
            if !written.contains(&blob.digest) {
                tar.program(&blob.path(), file)?;
                written.push(blob.digest.clone());
            }
        }
        tar.finish()
    }
}

impl Image {
    fn describe(&self, layers: &[&Blob]) -> Result<Described> {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let environment: Vec<&str> =
            [path].into_iter().chain(self.environment.iter().map(String::as_str)).collect();
        let labels: Map<String, Value> = self
            .labels
            .iter()
            .map(|(key, text)| (format!("org.opencontainers.image.{key}"), json!(text)))
            .collect();
        let config = serde_json::to_vec(&json!({
            "architecture": self.arch.oci(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.arguments,
                "Env": environment,
                "Labels": labels,
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
        Ok(Described { names: self.names.clone(), arch: self.arch, manifest, config, layers })
    }
}

impl Described {
    fn index_entries(&self) -> Vec<Value> {
        let manifest = || blob_of_bytes(&self.manifest).descriptor(MANIFEST);
        self.names.iter().map(|name| named(manifest(), name)).collect()
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
        let mut image = Image::new("localhost/hello:dev", &[&base, &top], "/usr/bin/hello --loud");
        image.labels = vec![("revision", "1f2e".to_owned())];
        write(&[image], &directory.join("image.tar")).expect("image");
        read(&directory.join("image.tar"))
    }

    fn read(archive: &Path) -> Vec<(String, Vec<u8>)> {
        let bytes = std::fs::read(archive).expect("image exists");
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
        let directory = tempfile::tempdir().expect("directory");
        let archive = entries(directory.path());
        assert_eq!(archive, entries(directory.path()));

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
        let labels = json!({ "org.opencontainers.image.revision": "1f2e" });
        assert_eq!(config["config"]["Labels"], labels);
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
    #[test]
    fn index_of_a_multi_arch_image_leads_to_the_programs_of_each_architecture() {
        let directory = tempfile::tempdir().expect("directory");
        let images = [Arch::X86_64, Arch::Aarch64].map(|arch| {
            let path = directory.path().join(arch.name());
            let mut layer = Layer::create(&path).expect("layer");
            layer.file("arch", arch.name().as_bytes()).expect("file");
            layer.finish().expect("layer ends");
            Image { arch, ..Image::new("localhost/hello:dev", &[&path], "/arch") }
        });
        let path = directory.path().join("image.tar");
        write_multi_arch(&images, &path).expect("image");
        let archive = read(&path);
        let find = |descriptor: &Value| -> &[u8] {
            let digest = descriptor["digest"].as_str().expect("digest").replace(':', "/");
            let entry = archive.iter().find(|(path, _)| *path == format!("blobs/{digest}"));
            entry.map(|(_, bytes)| bytes.as_slice()).unwrap_or_else(|| panic!("no {descriptor}"))
        };
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");

        let (_, top) = archive.iter().find(|(path, _)| path == "index.json").expect("an index");
        let top = json(top)["manifests"].clone();
        assert_eq!(top.as_array().map(Vec::len), Some(1));
        assert_eq!((&top[0]["mediaType"], &top[0]["platform"]), (&json!(INDEX), &Value::Null));
        assert_eq!(top[0]["annotations"]["io.containerd.image.name"], "localhost/hello:dev");
        let manifests = json(find(&top[0]))["manifests"].clone();
        for (entry, arch) in [("amd64", "x86_64"), ("arm64", "aarch64")].into_iter().enumerate() {
            let descriptor = &manifests[entry];
            let (oci, name) = arch;
            assert_eq!(descriptor["platform"], json!({ "architecture": oci, "os": "linux" }));
            let manifest = json(find(descriptor));
            assert_eq!(json(find(&manifest["config"]))["architecture"], oci);
            let layer = find(&manifest["layers"][0]);
            assert!(layer.windows(name.len()).any(|bytes| bytes == name.as_bytes()), "{oci}");
        }
    }
}
