//! Everything below a kind cluster: engine, node image, and Kubernetes built from Go modules.
//!
//! ```text
//! kubernetes (Go programs) ──> kubernetes_images ──┐
//!      └───────────────────────────────────────────┼──> node_image ──> cluster ──> baseline
//! rootfs (Debian packages) ────────────────────────┘ engine ──> space ──┘
//! ```
//! A module uses only those to its left. Where Docker and a registry answer, the published node
//! image is used and nothing is built. Commands call [`up`], [`Cluster`] and [`Engine`].

mod baseline;
mod cluster;
mod engine;
mod kubernetes;
mod kubernetes_images;
mod node_image;
mod rootfs;
mod space;

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::cache::{Cache, checkout};
use crate::{progress, setup};

pub use cluster::{Cluster, Spec};
pub use engine::Engine;
pub use kubernetes_images::AGNHOST;

/// Implementation of Services.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Proxy {
    /// No kube-proxy: nothing, or Sluice.
    None,
    /// kube-proxy with iptables.
    Iptables,
    /// kube-proxy with nftables.
    Nftables,
}

/// Implementation of the pod network.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cni {
    /// No CNI configuration: nothing, or Sluice.
    None,
    /// The bridge plugin with host-local addresses and routes between nodes.
    Bridge,
}

/// Returns the tar of the root file system with the tools of the test images.
///
/// # Errors
/// When it cannot be made.
pub fn tools(cache: &Cache) -> Result<PathBuf> {
    rootfs::debian(cache, "tools", &checkout().join("tests/node-image/packages-tools.txt"))
}

/// Returns the path of a program of Kubernetes: agnhost or coredns.
///
/// # Errors
/// When it cannot be built.
pub fn program(cache: &Cache, name: &str) -> Result<PathBuf> {
    kubernetes::programs(cache)?.path(name)
}

/// Returns the cluster of the specification's name, which is created if it does not exist.
///
/// # Errors
/// When a tool cannot be installed, a build fails, or the cluster does not start.
pub fn up(cache: &Cache, spec: &Spec) -> Result<Cluster> {
    setup::cluster(cache)?;
    let cluster = Cluster::handle(cache, Engine::start(cache)?, &spec.name)?;
    if cluster.exists()? {
        println!("  cluster {} already exists", cluster.name);
        return Ok(cluster);
    }
    cluster.create(cache, spec)?;
    if spec.cni == Cni::Bridge {
        progress::step("bridge CNI on every node", || {
            baseline::install_bridge(&cluster)?;
            Ok(((), "configured".to_owned()))
        })?;
        cluster.wait_ready()?;
    }
    Ok(cluster)
}
