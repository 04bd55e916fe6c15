//! `cargo xtask demo`: a cluster with Sluice and an example application, and a smoke test.

mod smoke_test;

use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::cache::{Cache, checkout};
use crate::kind::{self, Cluster, Spec};
use crate::{image, install, progress, setup};

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub struct Options {
    /// Remove the cluster, and our own engine; caches are kept
    #[arg(long)]
    down: bool,
    /// Repeat the smoke test on the running cluster
    #[arg(long, conflicts_with = "down")]
    smoke_test: bool,
}

/// Runs the demo, repeats its smoke test, or removes it.
///
/// # Errors
/// When the cluster does not start or a claim of the smoke test does not hold.
pub fn run(cache: &Cache, options: &Options) -> Result<()> {
    setup::require_platform()?;
    let start = Instant::now();
    let spec = Spec::for_sluice();
    if options.down {
        return Cluster::down(cache, &spec.name);
    }
    if options.smoke_test {
        return smoke_test::run(&Cluster::find(cache, &spec.name)?);
    }
    println!("Cluster");
    let cluster = kind::up(cache, &spec)?;
    println!("\nSluice");
    install::sluice(cache, &cluster, &image::archive(cache)?)?;
    println!("\nExample application");
    shop(&cluster)?;
    smoke_test::run(&cluster)?;
    let wrapper = cluster.wrapper(cache)?.display().to_string();
    println!("\nFinished in {}. Next steps:", progress::time(start.elapsed()));
    println!("  {wrapper} kubectl get pods -A -o wide");
    println!("  {wrapper} kubectl -n shop exec deploy/frontend -- curl -s http://orders/hostname");
    println!("  {wrapper} kubectl -n sluice-system exec ds/sluice -- sluice status");
    println!("  {wrapper} kubectl -n sluice-system exec ds/sluice -- sluice service");
    println!("  KUBECONFIG={}", cluster.kubeconfig.display());
    println!("  cargo xtask demo --smoke-test    # repeat the smoke test");
    println!("  cargo xtask demo --down          # remove the cluster");
    Ok(())
}

fn shop(cluster: &Cluster) -> Result<()> {
    progress::step("kubectl apply -f deploy/demo/shop.yaml", || {
        let manifest = checkout().join("deploy/demo/shop.yaml");
        let output = cluster.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
        Ok(((), format!("{} objects", output.lines().count())))
    })?;
    install::wait_rollout(cluster, "kube-system", "deployment/coredns")?;
    for name in ["deployment/database", "deployment/orders", "deployment/frontend"] {
        install::wait_rollout(cluster, "shop", name)?;
    }
    Ok(())
}
