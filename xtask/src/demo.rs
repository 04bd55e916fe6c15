//! `cargo xtask demo`: from nothing to a shop on a cluster that Sluice networks, with proof.

mod proof;

use crate::cache::{Cache, checkout};
use crate::cluster::{self, Cluster, Cni, Proxy, UpOptions};
use crate::{install, progress, setup};
use anyhow::Result;
use clap::Args;
use std::time::Instant;

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub struct Options {
    /// Remove the cluster, and the engine if it is ours; caches stay
    #[arg(long)]
    down: bool,
    /// Only show the proof again, on the cluster that is there
    #[arg(long, conflicts_with = "down")]
    proof: bool,
}

/// Runs the demo, shows its proof again, or takes it away.
pub fn run(cache: &Cache, options: &Options) -> Result<()> {
    setup::require_root()?;
    let began = Instant::now();
    if options.down {
        return cluster::down(cache, cluster::NAME);
    }
    if options.proof {
        return proof::show(&cluster::find(cache, cluster::NAME)?);
    }
    println!("Cluster");
    let up = UpOptions::new(cluster::NAME, 3, Proxy::None, Cni::None);
    let cluster = cluster::up(cache, &up)?;
    println!("\nSluice");
    install::sluice(cache, &cluster)?;
    println!("\nShop");
    shop(&cluster)?;
    proof::show(&cluster)?;
    let wrapper = cluster.wrapper(cache)?.display().to_string();
    println!("\nAll of it in {}. From here:", progress::time(began.elapsed()));
    println!("  {wrapper} kubectl get pods -A -o wide");
    println!("  {wrapper} kubectl -n shop exec deploy/frontend -- curl -s http://orders/hostname");
    println!("  {wrapper} kubectl -n sluice-system exec ds/sluice -- sluice status");
    println!("  {wrapper} kubectl -n sluice-system exec ds/sluice -- sluice service");
    println!("  KUBECONFIG={}", cluster.kubeconfig.display());
    println!("  cargo xtask demo --proof     # the proof again");
    println!("  cargo xtask demo --down      # remove it all");
    Ok(())
}

fn shop(cluster: &Cluster) -> Result<()> {
    progress::step("kubectl apply -f deploy/demo/shop.yaml", || {
        let manifest = checkout().join("deploy/demo/shop.yaml");
        let answer = cluster.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
        Ok(((), format!("{} objects", answer.lines().count())))
    })?;
    install::rolled_out(cluster, "kube-system", "deployment/coredns")?;
    for name in ["deployment/database", "deployment/orders", "deployment/frontend"] {
        install::rolled_out(cluster, "shop", name)?;
    }
    Ok(())
}
