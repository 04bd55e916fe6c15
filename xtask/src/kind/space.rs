//! Space for the containers of a cluster.
//!
//! On a full file system nodes become Ready, but their pods do not start, and each test fails with
//! the time-out of what it waits for.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::engine::Engine;
use crate::process;

const MIB: u64 = 1 << 20;

/// What one node and its pods take during the cluster level: 1.3 GiB measured, and a margin.
const NODE_MIB: u64 = 2048;

/// Checks that the file system of the engine's containers has space for a cluster of `nodes` nodes.
///
/// # Errors
/// When the space is too small or is not known.
pub fn require(engine: &Engine, nodes: usize) -> Result<()> {
    let mut info = engine.command("docker");
    let root = process::output(info.args(["info", "--format", "{{.DockerRootDir}}"]))?;
    // An engine in a virtual machine or on another host.
    if !Path::new(&root).exists() {
        return Ok(());
    }
    let mut df = Command::new("df");
    check(&process::output(df.args(["--output=avail", "--block-size=1M", &root]))?, &root, nodes)
}

/// `df` is the output of df: a heading, and the MiB available to `root`.
fn check(df: &str, root: &str, nodes: usize) -> Result<()> {
    let available = df.lines().last().and_then(|line| line.trim().parse::<u64>().ok());
    let available = available.with_context(|| format!("df of {root} prints {df:?}"))?;
    let needed = NODE_MIB * nodes as u64;
    if available < needed {
        bail!(
            "{:.1} GiB are free in {root}, and a cluster of {nodes} nodes takes up to {:.1} GiB: its pods would \
             not start; `cargo clean` removes what was built in a checkout",
            gib(available),
            gib(needed)
        );
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "for display")]
fn gib(mib: u64) -> f64 {
    (mib * MIB) as f64 / (1024 * MIB) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_that_does_not_fit_is_refused_with_the_remedy() {
        assert!(check(" Avail\n  6144\n", "/data", 3).is_ok());
        let error = check(" Avail\n  6143\n", "/data", 3).unwrap_err().to_string();
        for part in ["6.0 GiB are free in /data", "3 nodes", "cargo clean"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(check(" Avail\n  6144\n", "/data", 4).is_err());
        assert!(check("", "/data", 1).is_err());
        assert!(check(" Avail\n-\n", "/data", 1).is_err());
    }
}
