//! The kind node image: the published one where it can be had, else one built from packages.
//!
//! In: an engine, tests/node-image, the programs of `kubernetes`, Debian. Out: the name of an
//! image in the engine. Ours carries the control-plane images in its content store: three nodes
//! that import them while they boot are slower than kind waits.

use crate::cache::{Cache, Inputs, checkout};
use crate::engine::Engine;
use crate::kubernetes::{self, Programs, VERSION};
use crate::oci::Layer;
use crate::{kubernetes_images, progress, rootfs};
use anyhow::Result;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The published image nearest to what we build ourselves.
const PUBLISHED: &str = "kindest/node:v1.34.3";

/// What our image is made from, below tests/node-image.
const SOURCES: [&str; 6] =
    ["coredns", "kubernetes", "packages-tools.txt", "packages.txt", "pause", "root"];

/// A node image, and whether it is ours.
pub struct NodeImage {
    /// Name in the engine.
    pub name: String,
    /// Ours needs a few kubelet settings for machines with cgroup v1 and few rights.
    pub built: bool,
}

/// Finds, pulls or builds the node image.
pub fn ensure(cache: &Cache, engine: &Engine) -> Result<NodeImage> {
    if has(engine, PUBLISHED) {
        return Ok(NodeImage { name: PUBLISHED.to_owned(), built: false });
    }
    // Our own engine has no way to the outside, so there is nothing to try there.
    if !engine.is_ours() {
        let mut pull = engine.command("timeout");
        let (status, _) = progress::run_quietly(
            "pulling the node image",
            pull.args(["600", "docker", "pull", PUBLISHED]),
            &cache.logs(),
        )?;
        if status.success() {
            return Ok(NodeImage { name: PUBLISHED.to_owned(), built: false });
        }
    }
    build(cache, engine)
}

fn has(engine: &Engine, name: &str) -> bool {
    progress::succeeds(engine.command("docker").args(["image", "inspect", name]))
}

fn build(cache: &Cache, engine: &Engine) -> Result<NodeImage> {
    let sources = checkout().join("tests/node-image");
    let mut inputs = Inputs::default().text("4").text(VERSION);
    for source in SOURCES {
        inputs = inputs.text(source).path(&sources.join(source))?;
    }
    let name = format!("localhost/sluice-node:{VERSION}-{}", inputs.key());
    if has(engine, &name) {
        return Ok(NodeImage { name, built: true });
    }
    let programs = kubernetes::programs(cache)?;
    let base = rootfs::debian(cache, "node", &sources.join("packages.txt"))?;
    let images = kubernetes_images::archive(cache, &programs)?;

    let room = cache.room("node-image")?;
    let plain = format!("{name}-empty");
    let import = import_script(&room, &base, &sources, &programs)?;
    progress::run(
        "importing the node image",
        engine.command("sh").arg("-c").arg(import).arg("sh").arg(&plain),
        &cache.logs(),
    )?;
    progress::step("preloading Kubernetes' images", || {
        preload(engine, &plain, &name, &images)?;
        Ok(((), "done".to_owned()))
    })?;
    fs::remove_dir_all(&room)?;
    Ok(NodeImage { name, built: true })
}

/// Lays our files over the Debian base and returns the shell line that imports the whole.
fn import_script(room: &Path, base: &Path, sources: &Path, programs: &Programs) -> Result<String> {
    let overlay = room.join("overlay.tar");
    let mut layer = Layer::create(&overlay)?;
    let root = sources.join("root");
    add_tree(&mut layer, &root, &root)?;
    layer.text("kind/version", VERSION)?;
    layer.program("usr/bin/kubernetes", &programs.path("kubernetes")?)?;
    for name in ["kubelet", "kubeadm", "kubectl", "kube-proxy"] {
        layer.link(&format!("usr/bin/{name}"), "kubernetes")?;
    }
    for name in ["bandwidth", "bridge", "host-local", "loopback", "portmap", "ptp"] {
        layer.link(&format!("opt/cni/bin/{name}"), &format!("/usr/lib/cni/{name}"))?;
    }
    layer.directory("etc/cni/net.d/", 0o755)?;
    let units = "etc/systemd/system";
    for (unit, place) in [
        ("containerd.service", "/lib/systemd/system/containerd.service"),
        ("kubelet.service", "../kubelet.service"),
        ("resolver.service", "../resolver.service"),
    ] {
        layer.link(&format!("{units}/multi-user.target.wants/{unit}"), place)?;
    }
    layer.link(&format!("{units}/default.target"), "/lib/systemd/system/multi-user.target")?;
    for unit in MASKED {
        layer.link(&format!("{units}/{unit}"), "/dev/null")?;
    }
    layer.finish()?;
    Ok(format!(
        "mkdir -p {room}/root && tar -xpf {base} -C {room}/root --numeric-owner && \
         tar -xpf {overlay} -C {room}/root --numeric-owner && \
         tar -cf - -C {room}/root --numeric-owner . | docker import \
         --change 'ENTRYPOINT [\"/usr/local/bin/entrypoint\"]' --change 'ENV container=docker' - \"$1\" && rm -rf {room}/root",
        base = base.display(),
        overlay = overlay.display(),
        room = room.display(),
    ))
}

/// Units that mean a real machine: devices, consoles, timers.
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

fn add_tree(layer: &mut Layer, root: &Path, directory: &Path) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(directory)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            add_tree(layer, root, &path)?;
            continue;
        }
        let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
        if name.starts_with("usr/local/bin/") {
            layer.program(&name, &path)?;
        } else {
            layer.text(&name, &fs::read_to_string(&path)?)?;
        }
    }
    Ok(())
}

/// Puts the archive into the image's content store: containerd alone runs in a container of
/// it, takes it, stops, and the container becomes the image.
fn preload(engine: &Engine, plain: &str, name: &str, archive: &Path) -> Result<()> {
    let container = format!("sluice-preload-{}", std::process::id());
    let docker = |words: &[&str]| -> Result<String> {
        progress::output(engine.command("docker").args(words))
    };
    docker(&[
        "run",
        "--detach",
        "--privileged",
        "--name",
        &container,
        "--entrypoint",
        "containerd",
        plain,
    ])?;
    let filled = (|| -> Result<()> {
        progress::wait("containerd", Duration::from_secs(30), || {
            docker(&["exec", &container, "ctr", "version"]).map_err(|e| e.to_string())
        })?;
        let mut import = engine.command("docker");
        import
            .args(["exec", "--interactive", &container, "ctr", "--namespace=k8s.io", "images"])
            .args(["import", "--no-unpack", "-"])
            .stdin(fs::File::open(archive)?);
        let result = import.output()?;
        anyhow::ensure!(
            result.status.success(),
            "importing {}: {}",
            archive.display(),
            String::from_utf8_lossy(&result.stderr).trim()
        );
        docker(&["stop", "--time", "20", &container])?;
        docker(&[
            "commit",
            "--change",
            "ENTRYPOINT [\"/usr/local/bin/entrypoint\"]",
            &container,
            name,
        ])?;
        Ok(())
    })();
    let _ = docker(&["rm", "--force", "--volumes", &container]);
    filled?;
    let _ = docker(&["rmi", plain]);
    Ok(())
}
