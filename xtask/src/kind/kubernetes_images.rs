//! The container images in our own node image, packed from the programs of `kubernetes`.
//!
//! Output: one OCI archive with control plane, CoreDNS, sandbox, kube-proxy and agnhost, under
//! the names that kubeadm and the tests of Kubernetes use.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::kubernetes::{COREDNS, ETCD, PAUSE, Programs, VERSION};
use crate::cache::{Cache, Inputs};
use crate::oci::{self, Image, Layer};
use crate::progress;

/// Test server and client, under the name in the tests of Kubernetes.
pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.56";

/// Raised when the layout of the images changes.
const REVISION: &str = "5";

/// Returns the path of the archive.
///
/// # Errors
/// When the root file system cannot be made or a file cannot be written.
pub fn archive(cache: &Cache, programs: &Programs) -> Result<PathBuf> {
    let tools = super::tools(cache)?;
    let mut inputs = Inputs::default();
    for word in [REVISION, VERSION, ETCD, PAUSE, COREDNS, AGNHOST, &tools.to_string_lossy()] {
        inputs = inputs.text(word);
    }
    for name in ["kubernetes", "coredns", "pause", "agnhost"] {
        // The path contains the hash of the program's inputs.
        inputs = inputs.text(&programs.path(name)?.to_string_lossy());
    }
    let directory = cache.artifact("kubernetes-images", &inputs, |folder| {
        progress::step("packing the images of Kubernetes", || {
            let images = images(folder, programs, &tools)?;
            oci::write(&images, &folder.join("images.tar"))?;
            for file in fs::read_dir(folder)?.flatten() {
                if file.file_name() != "images.tar" {
                    fs::remove_file(file.path())?;
                }
            }
            Ok(((), format!("{} images", images.len())))
        })
    })?;
    Ok(directory.join("images.tar"))
}

fn images(folder: &Path, programs: &Programs, tools: &Path) -> Result<Vec<Image>> {
    let control_plane = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];
    // The program contains every component, so one layer serves all of their images.
    let kubernetes = folder.join("kubernetes.tar");
    let mut layer = Layer::create(&kubernetes)?;
    layer.directory("tmp/", 0o1777)?;
    layer.program("usr/local/bin/kubernetes", &programs.path("kubernetes")?)?;
    for name in control_plane.iter().chain(&["etcd", "kube-proxy"]) {
        layer.link(&format!("usr/local/bin/{name}"), "kubernetes")?;
    }
    layer.finish()?;
    let single = |name: &str| -> Result<PathBuf> {
        let path = folder.join(format!("{name}.tar"));
        let mut layer = Layer::create(&path)?;
        layer.program(name, &programs.path(name)?)?;
        layer.finish()?;
        Ok(path)
    };
    let registry = |name: &str, tag: &str| format!("registry.k8s.io/{name}:{tag}");

    let mut all = Image::new(&registry("etcd", ETCD), &[&kubernetes], "");
    all.names.extend(control_plane.iter().map(|name| registry(name, VERSION)));
    let proxy = &[tools, &kubernetes];
    Ok(vec![
        all,
        Image::new(&registry("coredns/coredns", COREDNS), &[&single("coredns")?], "/coredns"),
        Image::new(&registry("pause", PAUSE), &[&single("pause")?], "/pause"),
        Image::new(&registry("kube-proxy", VERSION), proxy, "/usr/local/bin/kube-proxy"),
        Image::new(AGNHOST, &[tools, &single("agnhost")?], "/agnhost"),
    ])
}
