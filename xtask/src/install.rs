//! Installs Sluice on a cluster: load the image, apply deploy/, wait for the roll-out.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cache::{Cache, checkout};
use crate::kind::Cluster;
use crate::progress;

const NAMESPACE: &str = "sluice-system";
const ROLLOUT: Duration = Duration::from_secs(180);

/// Loads the image of Sluice, applies the manifests and waits until all nodes are Ready.
///
/// # Errors
/// When the image cannot be loaded, kubectl fails, or the DaemonSet or the nodes are not ready in time.
pub fn sluice(cache: &Cache, cluster: &Cluster, image: &Path) -> Result<()> {
    cluster.load(cache, image)?;
    let get = ["-n", NAMESPACE, "get", "daemonset", "sluice", "-o", "name"];
    let installed = cluster.kubectl(&get).is_ok();
    progress::step("kubectl apply -k deploy/", || {
        let deploy = checkout().join("deploy");
        let output = cluster.kubectl(&["apply", "-k", &deploy.to_string_lossy()])?;
        if installed {
            // The image has the same name but other contents: pods use it after a restart only.
            cluster.kubectl(&["-n", NAMESPACE, "rollout", "restart", "daemonset/sluice"])?;
        }
        Ok(((), format!("{} objects", output.lines().count())))
    })?;
    wait_rollout(cluster, NAMESPACE, "daemonset/sluice").with_context(|| diagnosis(cluster))?;
    cluster.wait_ready()
}

/// Waits until all pods of a Deployment or DaemonSet are updated and ready.
///
/// # Errors
/// When the roll-out does not finish within three minutes.
pub fn wait_rollout(cluster: &Cluster, namespace: &str, object: &str) -> Result<()> {
    progress::step(object, || {
        progress::wait(object, ROLLOUT, || {
            cluster
                .kubectl(&["-n", namespace, "rollout", "status", object, "--timeout=9s"])
                .map(|text| ((), text.lines().last().map_or_else(String::new, without_object)))
                .map_err(|error| error.to_string())
        })
    })
}

/// Removes the object's name, which the step's line already shows, from kubectl's message.
fn without_object(line: &str) -> String {
    let line = line.rsplit_once("\" ").map_or(line, |(_, rest)| rest);
    line.trim_end_matches("...").to_owned()
}

/// State and log of the agent's pods, for the error of a roll-out.
fn diagnosis(cluster: &Cluster) -> String {
    let pods = ["-n", NAMESPACE, "get", "pods", "-o", "wide"];
    let log = ["-n", NAMESPACE, "logs", "daemonset/sluice", "--all-containers", "--tail=5"];
    let output = |words: &[&str]| cluster.kubectl(words).unwrap_or_else(|e| e.to_string());
    format!("the agent's pods are not ready:\n{}\n{}\n", output(&pods), output(&log))
}

#[cfg(test)]
mod tests {
    use super::without_object;

    #[test]
    fn kubectl_message_is_shown_without_the_object() {
        let line = "daemon set \"sluice\" successfully rolled out";
        assert_eq!(without_object(line), "successfully rolled out");
        assert_eq!(without_object("waiting..."), "waiting");
    }
}
