//! The kind node image: the published one where it can be pulled, else one built from packages.
//!
//! Input: an engine, tests/node-image, the programs of `kubernetes`, Debian packages. Output: the
//! name of an image in the engine. Our own image contains the control-plane images: importing
//! them on three nodes at once would exceed kind's timeout for the start of a node.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::engine::Engine;
use super::kubernetes::{self, Programs, VERSION};
use super::{kubernetes_images, rootfs};
use crate::cache::{Cache, Inputs, checkout, sorted_entries};
use crate::oci::{self, Image, Layer};
use crate::process::{self, STEP};
use crate::{progress, setup};

/// The published image of the same minor release.
const PUBLISHED: &str = "kindest/node:v1.34.3";

/// Inputs of our own image below tests/node-image.
const SOURCES: [&str; 6] =
    ["coredns", "kubernetes", "packages-tools.txt", "packages.txt", "pause", "root"];

/// Raised when the layout of our own image changes.
const REVISION: &str = "5";

const ENTRYPOINT: &str = "/usr/local/bin/entrypoint";

/// Components of the program `kubernetes` on a node.
const COMPONENTS: [&str; 4] = ["kubelet", "kubeadm", "kubectl", "kube-proxy"];

const CNI_PLUGINS: [&str; 6] = ["bandwidth", "bridge", "host-local", "loopback", "portmap", "ptp"];

/// Enabled units, and the targets of their links.
const ENABLED: [(&str, &str); 4] = [
    ("default.target", "/lib/systemd/system/multi-user.target"),
    ("multi-user.target.wants/containerd.service", "/lib/systemd/system/containerd.service"),
    ("multi-user.target.wants/kubelet.service", "../kubelet.service"),
    ("multi-user.target.wants/resolver.service", "../resolver.service"),
];

/// Units for hardware, consoles and timers, which a container does not have.
const MASKED: [&str; 14] = [
    "systemd-udevd.service",
    "systemd-udevd-kernel.socket",
    "systemd-udevd-control.socket",
    "systemd-udev-trigger.service",
    "systemd-logind.service",
    "getty.target",
    "systemd-remount-fs.service",
    "systemd-timesyncd.service",
    "systemd-sysctl.service",
    "dev-hugepages.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-kernel-config.mount",
    "apt-daily.timer",
];

/// A node image in the engine.
pub struct NodeImage {
    /// Name of the image.
    pub name: String,
    /// Whether it is our own, which needs kubelet settings for cgroup v1 and missing capabilities.
    pub built: bool,
}

/// Finds, pulls or builds the node image.
///
/// # Errors
/// When neither the published image is available nor our own can be built.
pub fn ensure(cache: &Cache, engine: &Engine) -> Result<NodeImage> {
    let published = NodeImage { name: PUBLISHED.to_owned(), built: false };
    if exists(engine, PUBLISHED) {
        return Ok(published);
    }
    // Our own engine has no route to a registry.
    if !engine.is_ours() {
        let mut pull = engine.command("docker");
        let pulled = process::run_quietly(
            "pulling the node image",
            pull.args(["pull", PUBLISHED]),
            &cache.logs(),
            STEP,
        );
        if pulled.is_ok_and(|(status, _)| status.success()) {
            return Ok(published);
        }
    }
    build(cache, engine)
}

fn exists(engine: &Engine, name: &str) -> bool {
    process::succeeds(engine.command("docker").args(["image", "inspect", name]))
}

fn build(cache: &Cache, engine: &Engine) -> Result<NodeImage> {
    let sources = checkout().join("tests/node-image");
    let mut inputs = Inputs::default().text(REVISION).text(VERSION);
    for source in SOURCES {
        inputs = inputs.text(source).path(&sources.join(source))?;
    }
    let name = format!("localhost/sluice-node:{VERSION}-{}", inputs.key());
    if exists(engine, &name) {
        return Ok(NodeImage { name, built: true });
    }
    setup::node_image()?;
    let programs = kubernetes::programs(cache)?;
    let base = rootfs::debian(cache, "node", &sources.join("packages.txt"))?;
    let images = kubernetes_images::archive(cache, &programs)?;

    let plain = format!("{name}-without-images");
    let folder = cache.folder(&format!("node-image-{}", std::process::id()))?;
    let loaded = pack(&folder, &plain, &base, &sources.join("root"), &programs).and_then(|tar| {
        process::run(
            "loading the node image",
            engine.command("docker").args(["load", "--input"]).arg(tar),
            &cache.logs(),
            STEP,
        )
    });
    fs::remove_dir_all(&folder)?;
    loaded?;
    progress::step("adding the images of Kubernetes", || {
        add_images(engine, &plain, &name, &images)?;
        Ok(((), "done".to_owned()))
    })?;
    Ok(NodeImage { name, built: true })
}

/// Packs an image from the Debian packages and our files, and returns the path of its archive.
fn pack(
    folder: &Path,
    name: &str,
    base: &Path,
    root: &Path,
    programs: &Programs,
) -> Result<PathBuf> {
    let files = folder.join("files.tar");
    let mut layer = Layer::create(&files)?;
    add_tree(&mut layer, root, root)?;
    layer.file("kind/version", VERSION.as_bytes())?;
    layer.program("usr/bin/kubernetes", &programs.path("kubernetes")?)?;
    for name in COMPONENTS {
        layer.link(&format!("usr/bin/{name}"), "kubernetes")?;
    }
    for name in CNI_PLUGINS {
        layer.link(&format!("opt/cni/bin/{name}"), &format!("/usr/lib/cni/{name}"))?;
    }
    layer.directory("etc/cni/net.d/", 0o755)?;
    for (unit, target) in ENABLED {
        layer.link(&format!("etc/systemd/system/{unit}"), target)?;
    }
    for unit in MASKED {
        layer.link(&format!("etc/systemd/system/{unit}"), "/dev/null")?;
    }
    layer.finish()?;
    let image = Image {
        environment: vec!["container=docker".to_owned()],
        ..Image::new(name, &[base, &files], ENTRYPOINT)
    };
    let archive = folder.join("node.tar");
    oci::write(&[image], &archive)?;
    Ok(archive)
}

fn add_tree(layer: &mut Layer, root: &Path, directory: &Path) -> Result<()> {
    for path in sorted_entries(directory)? {
        if path.is_dir() {
            add_tree(layer, root, &path)?;
            continue;
        }
        let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
        if name.starts_with("usr/local/bin/") {
            layer.program(&name, &path)?;
        } else {
            layer.file(&name, &fs::read(&path)?)?;
        }
    }
    Ok(())
}

/// Adds the archive to the content store of containerd in the image `plain`, and names the
/// result `name`: containerd runs alone in a container, imports, and the container is committed.
fn add_images(engine: &Engine, plain: &str, name: &str, archive: &Path) -> Result<()> {
    let container = format!("sluice-node-image-{}", std::process::id());
    let docker = |words: &[&str]| -> Command {
        let mut command = engine.command("docker");
        command.args(words);
        command
    };
    let run = ["run", "--detach", "--privileged", "--name", &container];
    process::output(docker(&run).args(["--entrypoint", "containerd", plain]))?;
    let committed = (|| -> Result<()> {
        progress::wait("containerd", Duration::from_secs(30), || {
            process::output(&mut docker(&["exec", &container, "ctr", "version"]))
                .map_err(|e| e.to_string())
        })?;
        let mut import = docker(&["exec", "--interactive", &container]);
        import.args(["ctr", "--namespace=k8s.io", "images", "import", "--no-unpack", "-"]);
        process::output_within(import.stdin(File::open(archive)?), STEP)?;
        process::output(&mut docker(&["stop", "--time", "20", &container]))?;
        let entrypoint = format!("ENTRYPOINT [\"{ENTRYPOINT}\"]");
        let mut commit = docker(&["commit", "--change", &entrypoint, &container, name]);
        process::output_within(&mut commit, STEP)?;
        Ok(())
    })();
    let _ = process::output(&mut docker(&["rm", "--force", "--volumes", &container]));
    committed?;
    let _ = process::output(&mut docker(&["rmi", plain]));
    Ok(())
}
