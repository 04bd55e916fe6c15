//! `cargo xtask cluster`: creates, removes, fills and shows kind clusters.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::cache::Cache;
use crate::kind::{self, Cluster, Cni, Engine, Proxy, Spec};
use crate::setup;

/// The subcommands.
#[derive(Subcommand)]
pub enum Command {
    /// Create a cluster: without CNI plugin and kube-proxy, or with those of the baselines
    Up(UpOptions),
    /// Remove a cluster, and our own engine with the last one
    Down(Name),
    /// Load an image archive into every node
    Load {
        /// OCI or Docker archive, for example the output of `cargo xtask image`
        archive: PathBuf,
        #[command(flatten)]
        cluster: Name,
    },
    /// Show engine, nodes and pods
    Status(Name),
}

/// The cluster that a command applies to.
#[derive(Args)]
pub struct Name {
    /// Name of the cluster
    #[arg(long, default_value_t = Spec::for_sluice().name)]
    name: String,
}

/// Options of `up`.
#[derive(Args)]
pub struct UpOptions {
    #[command(flatten)]
    cluster: Name,
    /// Number of nodes, including the control plane
    #[arg(long, default_value_t = Spec::for_sluice().nodes)]
    nodes: usize,
    /// Mode of kube-proxy
    #[arg(long, value_enum, default_value_t = Proxy::None)]
    proxy: Proxy,
    /// CNI plugin to install
    #[arg(long, value_enum, default_value_t = Cni::None)]
    cni: Cni,
}

/// Runs a subcommand.
///
/// # Errors
/// When the engine, kind or kubectl fails.
pub fn run(cache: &Cache, command: Command) -> Result<()> {
    setup::require_platform()?;
    match command {
        Command::Up(UpOptions { cluster: Name { name }, nodes, proxy, cni }) => {
            let cluster = kind::up(cache, &Spec { name, nodes, proxy, cni })?;
            println!("\n  KUBECONFIG={}", cluster.kubeconfig.display());
            println!("  {} kubectl get pods -A -o wide", cluster.wrapper(cache)?.display());
            Ok(())
        }
        Command::Down(Name { name }) => Cluster::down(cache, &name),
        Command::Load { archive, cluster: Name { name } } => {
            Cluster::find(cache, &name)?.load(cache, &archive)
        }
        Command::Status(Name { name }) => status(cache, &name),
    }
}

fn status(cache: &Cache, name: &str) -> Result<()> {
    let Some(engine) = Engine::find(cache)? else {
        println!("engine: none is running");
        return Ok(());
    };
    println!("engine: {}", if engine.is_ours() { "dockerd of xtask" } else { "Docker" });
    let cluster = Cluster::find(cache, name)?;
    println!("KUBECONFIG={}\n", cluster.kubeconfig.display());
    println!("{}\n", cluster.kubectl(&["get", "nodes", "-o", "wide"])?);
    println!("{}", cluster.kubectl(&["get", "pods", "-A", "-o", "wide"])?);
    Ok(())
}
