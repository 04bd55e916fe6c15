//! The container images that a node of ours carries, from the programs in `kubernetes`.
//!
//! Out: one OCI archive with the control plane, CoreDNS, the sandbox, kube-proxy and agnhost,
//! under the names that kubeadm and Kubernetes' own tests ask for.

use crate::cache::{Cache, Inputs, checkout};
use crate::kubernetes::{COREDNS, ETCD, PAUSE, Programs, VERSION};
use crate::oci::{self, Image, Layer};
use crate::{progress, rootfs};
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};

/// The test server and client, under the name that Kubernetes' own tests use.
pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.56";

/// The archive with every image, packed or found in the cache.
pub fn archive(cache: &Cache, programs: &Programs) -> Result<PathBuf> {
    let tools =
        rootfs::debian(cache, "tools", &checkout().join("tests/node-image/packages-tools.txt"))?;
    let mut inputs = Inputs::default();
    for word in ["4", VERSION, ETCD, PAUSE, COREDNS, AGNHOST, &tools.to_string_lossy()] {
        inputs = inputs.text(word);
    }
    for name in ["kubernetes", "coredns", "pause", "agnhost"] {
        // A program's directory is named after what it was made from: the path stands for it.
        inputs = inputs.text(&programs.path(name)?.to_string_lossy());
    }
    let directory = cache.artefact("kubernetes-images", &inputs, |room| {
        progress::step("packing Kubernetes' images", || {
            let images = describe(room, programs, &tools)?;
            oci::write(&images, &room.join("images.tar"))?;
            for file in fs::read_dir(room)?.flatten() {
                if file.file_name() != "images.tar" {
                    fs::remove_file(file.path())?;
                }
            }
            Ok(((), format!("{} images", images.len())))
        })
    })?;
    Ok(directory.join("images.tar"))
}

fn describe(room: &Path, programs: &Programs, tools: &Path) -> Result<Vec<Image>> {
    let control_plane = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];
    // etcd and kube-proxy are in the same program: one layer serves every one of them.
    let kubernetes = room.join("kubernetes.tar");
    let mut layer = Layer::create(&kubernetes)?;
    layer.directory("tmp/", 0o1777)?;
    layer.program("usr/local/bin/kubernetes", &programs.path("kubernetes")?)?;
    for name in control_plane.iter().chain(&["etcd", "kube-proxy"]) {
        layer.link(&format!("usr/local/bin/{name}"), "kubernetes")?;
    }
    layer.finish()?;
    let single = |name: &str| -> Result<PathBuf> {
        let path = room.join(format!("{name}.tar"));
        let mut layer = Layer::create(&path)?;
        layer.program(name, &programs.path(name)?)?;
        layer.finish()?;
        Ok(path)
    };
    let image = |names: &[String], layers: &[&Path], entrypoint: &[&str]| Image {
        names: names.to_vec(),
        layers: layers.iter().map(|layer| layer.to_path_buf()).collect(),
        entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
    };

    let mut names: Vec<String> =
        control_plane.iter().map(|name| format!("registry.k8s.io/{name}:{VERSION}")).collect();
    names.push(format!("registry.k8s.io/etcd:{ETCD}"));
    let coredns = format!("registry.k8s.io/coredns/coredns:{COREDNS}");
    Ok(vec![
        image(&names, &[&kubernetes], &[]),
        image(&[coredns], &[&single("coredns")?], &["/coredns"]),
        image(&[format!("registry.k8s.io/pause:{PAUSE}")], &[&single("pause")?], &["/pause"]),
        image(
            &[format!("registry.k8s.io/kube-proxy:{VERSION}")],
            &[tools, &kubernetes],
            &["/usr/local/bin/kube-proxy"],
        ),
        image(&[AGNHOST.to_owned()], &[tools, &single("agnhost")?], &["/agnhost"]),
    ])
}
