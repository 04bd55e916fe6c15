//! Sluice onto a cluster, the way a user does it: load the image, apply deploy/, wait.

use crate::cache::{Cache, checkout};
use crate::cluster::Cluster;
use crate::{image, progress};
use anyhow::{Context, Result};
use std::time::Duration;

const NAMESPACE: &str = "sluice-system";
const ROLLED_OUT: Duration = Duration::from_secs(180);

/// Builds the image, loads it, applies the manifests and waits until all nodes are Ready.
pub fn sluice(cache: &Cache, cluster: &Cluster) -> Result<()> {
    let archive = image::archive(cache)?;
    cluster.load(cache, &archive)?;
    let get = ["-n", NAMESPACE, "get", "daemonset", "sluice", "-o", "name"];
    let was_there = cluster.kubectl(&get).is_ok();
    progress::step("kubectl apply -k deploy/", || {
        let deploy = checkout().join("deploy");
        let answer = cluster.kubectl(&["apply", "-k", &deploy.to_string_lossy()])?;
        if was_there {
            // Same name, other bytes: only a restart takes the image that was just loaded.
            cluster.kubectl(&["-n", NAMESPACE, "rollout", "restart", "daemonset/sluice"])?;
        }
        Ok(((), format!("{} objects", answer.lines().count())))
    })?;
    rolled_out(cluster, NAMESPACE, "daemonset/sluice").with_context(|| why(cluster))?;
    cluster.wait_ready()
}

/// Waits until a Deployment's or DaemonSet's pods are all new and ready.
pub fn rolled_out(cluster: &Cluster, namespace: &str, object: &str) -> Result<()> {
    progress::step(object, || {
        progress::wait(object, ROLLED_OUT, || {
            cluster
                .kubectl(&["-n", namespace, "rollout", "status", object, "--timeout=9s"])
                .map(|text| ((), text.lines().last().map_or_else(String::new, short)))
                .map_err(|error| error.to_string())
        })
    })
}

/// kubectl's sentence without the object's name, which stands before it already.
fn short(line: &str) -> String {
    let line = line.rsplit_once("\" ").map_or(line, |(_, rest)| rest);
    line.trim_end_matches("...").to_owned()
}

/// What the agents' pods say, for the message of a roll-out that does not end.
fn why(cluster: &Cluster) -> String {
    let pods = ["-n", NAMESPACE, "get", "pods", "-o", "wide"];
    let log = ["-n", NAMESPACE, "logs", "daemonset/sluice", "--all-containers", "--tail=5"];
    let answer = |words: &[&str]| cluster.kubectl(words).unwrap_or_else(|e| e.to_string());
    format!("the agents do not come up:\n{}\n{}\n", answer(&pods), answer(&log))
}
