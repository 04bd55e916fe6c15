//! The cluster's nodes, and a host outside the cluster on the nodes' network.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use crate::process;
use crate::{is_ready, kubectl_json};

/// Longest time of one docker call.
const DEADLINE: Duration = Duration::from_secs(120);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A node as the API shows it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name of the Node object and of the node's container.
    pub name: String,
    /// The first IPv4 InternalIP.
    pub address: String,
    /// podCIDR.
    pub pod_cidr: Option<IpNet>,
    /// Whether its Ready condition is True.
    pub ready: bool,
    /// Whether it runs the control plane.
    pub control_plane: bool,
}

/// All nodes, by name.
pub fn nodes() -> Vec<Node> {
    let list = kubectl_json(&["get", "nodes"]);
    list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|node| Node {
            name: node["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            address: node["status"]["addresses"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|a| a["type"] == "InternalIP")
                .filter_map(|a| a["address"].as_str())
                .find(|a| !a.contains(':'))
                .unwrap_or_default()
                .to_owned(),
            pod_cidr: node["spec"]["podCIDR"].as_str().and_then(|c| c.parse().ok()),
            ready: is_ready(node),
            control_plane: !node["metadata"]["labels"]["node-role.kubernetes.io/control-plane"]
                .is_null(),
        })
        .collect()
}

/// The nodes that are not the control plane, by name.
pub fn workers() -> Vec<Node> {
    nodes().into_iter().filter(|n| !n.control_plane).collect()
}

/// Runs `docker <arguments>`.
///
/// # Errors
/// The output, if the exit code is not 0 or the deadline passes.
pub fn docker(arguments: &[&str]) -> Result<String, String> {
    let finished = process::run(Command::new("docker").args(arguments), "", DEADLINE)?;
    match finished.code {
        Some(0) => Ok(finished.stdout),
        _ => Err(format!("docker {}: {}", arguments.join(" "), finished.stderr)),
    }
}

/// Runs `sluice <arguments>` in the agent's container on a node.
///
/// # Errors
/// If no agent runs there, or the output with an exit code other than 0.
pub fn sluice(node: &Node, arguments: &[&str]) -> Result<String, String> {
    let selector = format!("spec.nodeName={}", node.name);
    let find = ["-n", "sluice-system", "get", "pods", "--field-selector", &selector, "-o", "name"];
    let pod = crate::try_kubectl(&find, "")?;
    if pod.is_empty() {
        return Err(format!("no agent on {}", node.name));
    }
    let exec = ["-n", "sluice-system", "exec", &pod, "-c", "agent", "--", "sluice"];
    crate::try_kubectl(&[&exec[..], arguments].concat(), "")
}

/// Packets that a node has dropped for one reason.
pub fn dropped(node: &Node, reason: &str) -> u64 {
    let text = sluice(node, &["counters", "-o", "json"]).unwrap();
    let counters: Value = serde_json::from_str(&text).unwrap();
    let counter = counters.as_array().unwrap().iter().find(|c| c["label"] == reason);
    counter.unwrap_or_else(|| panic!("no counter {reason} in {text}"))["packets"].as_u64().unwrap()
}

/// A container on the nodes' network that is not a node. It answers TCP connections and UDP
/// datagrams on port 8080 with the client address that it observes, also on 169.254.169.254, the address of
/// the metadata service of clouds.
pub struct OutsideHost {
    name: String,
    /// Its IPv4 address.
    pub address: String,
}

impl OutsideHost {
    /// Starts the container from the nodes' image.
    pub fn start() -> OutsideHost {
        let node = nodes().into_iter().next().expect("a cluster has a node");
        let image = docker(&["inspect", "-f", "{{.Config.Image}}", &node.name]).unwrap();
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-outside-{}-{n}", std::process::id());
        let script = "ip addr add 169.254.169.254/32 dev lo; \
                      socat TCP-LISTEN:8080,fork,reuseaddr SYSTEM:'echo $SOCAT_PEERADDR' & \
                      exec socat UDP-RECVFROM:8080,fork SYSTEM:'echo $SOCAT_PEERADDR'";
        let run = ["run", "-d", "--name", &name, "--network", "kind", "--cap-add", "NET_ADMIN"];
        let mut host = OutsideHost { name: name.clone(), address: String::new() };
        docker(&[&run[..], &["--entrypoint", "sh", &image, "-c", script]].concat()).unwrap();
        let format = "{{.NetworkSettings.Networks.kind.IPAddress}}";
        host.address = docker(&["inspect", "-f", format, &name]).unwrap();
        host
    }

    /// Name of the container.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for OutsideHost {
    fn drop(&mut self) {
        if let Err(e) = docker(&["rm", "-f", "-v", &self.name]) {
            eprintln!("container {} not removed: {e}", self.name);
        }
    }
}
