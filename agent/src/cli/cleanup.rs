//! `sluice cleanup`: takes Sluice off this node. Pods that run lose their network.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use sluice_abi::pin;

use crate::cni_files;
use crate::config::may_be_empty;
use crate::dataplane::attach::{Hooks, clear_sockets};
use crate::dataplane::probe;
use crate::host::Host;
use crate::host::routes::Routes;

/// Flags of `sluice cleanup`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where the CNI binary was installed; empty: leave it.
    #[arg(long, value_name = "FOLDER", default_value = "/opt/cni/bin", value_parser = may_be_empty())]
    cni_bin_dir: PathBuf,
    /// Where the CNI configuration was written; empty: leave it.
    #[arg(long, value_name = "FOLDER", default_value = "/etc/cni/net.d", value_parser = may_be_empty())]
    cni_conf_dir: PathBuf,
    /// cgroup v2 root of the node (default: found).
    #[arg(long, value_name = "FOLDER")]
    cgroup_root: Option<PathBuf>,
}

/// Removes everything, and goes on where one thing fails; may be repeated.
///
/// # Errors
/// If anything could not be removed.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut failed = 0;
    let mut step = |what: &str, result: anyhow::Result<usize>| match result {
        Ok(0) => {}
        Ok(n) => println!("removed {n} {what}"),
        Err(e) => {
            failed += 1;
            eprintln!("sluice: {what}: {e:#}");
        }
    };
    // The configuration first: no new pod must be wired by what goes away now.
    step("CNI configuration", file(&args.cni_conf_dir, cni_files::CONF_NAME));
    step("CNI binary", file(&args.cni_bin_dir, cni_files::BINARY_NAME));
    step("socket programs", sockets(args.cgroup_root.as_deref()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    step("device programs and routes", runtime.block_on(network()));
    step("pins", pins());
    anyhow::ensure!(failed == 0, "{failed} steps failed");
    Ok(())
}

/// Without the cgroup root the socket programs would stay attached, and keep the maps alive.
fn sockets(given: Option<&Path>) -> anyhow::Result<usize> {
    let root = probe::look(given).cgroup_root.with_context(|| match given {
        Some(path) => format!("{} is not a cgroup v2 mount", path.display()),
        None => "there is no cgroup v2 mount: use --cgroup-root".to_owned(),
    })?;
    Ok(clear_sockets(&root)?)
}

fn file(dir: &Path, name: &str) -> anyhow::Result<usize> {
    if dir.as_os_str().is_empty() {
        return Ok(0);
    }
    Ok(usize::from(cni_files::remove(&dir.join(name))?))
}

async fn network() -> anyhow::Result<usize> {
    let host = Host::open()?;
    let mut hooks = Hooks::open()?;
    let mut n = 0;
    for link in host.facts().await?.links {
        n += hooks.clear_device(link.index);
    }
    Ok(n + host.sync_routes(&Routes::new()).await?.removed)
}

fn pins() -> anyhow::Result<usize> {
    match fs::remove_dir_all(pin::ROOT) {
        Ok(()) => Ok(1),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e).with_context(|| format!("remove {}", pin::ROOT)),
    }
}
