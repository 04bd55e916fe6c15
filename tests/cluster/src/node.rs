//! The cluster's nodes, and a host beside them that is not part of the cluster.

use std::process::Command;

use ipnet::IpNet;

use crate::kubectl_json;

/// A node as the API shows it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name, which is also its container's.
    pub name: String,
    /// Its InternalIP (the first IPv4 one).
    pub address: String,
    /// Its pod range.
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
            ready: node["status"]["conditions"].as_array().is_some_and(|all| {
                all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
            }),
            control_plane: !node["metadata"]["labels"]["node-role.kubernetes.io/control-plane"]
                .is_null(),
        })
        .collect()
}

/// The nodes that are not the control plane, by name.
pub fn workers() -> Vec<Node> {
    nodes().into_iter().filter(|n| !n.control_plane).collect()
}

/// Runs `docker <words>`.
///
/// # Errors
/// What docker wrote, when it does not end well.
pub fn docker(words: &[&str]) -> Result<String, String> {
    let output = Command::new("docker").args(words).output().map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("docker {}: {}", words.join(" "), text(&output.stderr)))
    }
}

/// A container on the nodes' network that is no node: the outside. It answers every TCP connection
/// to port 8080 with the address it sees as the client's, and UDP on the same port likewise.
pub struct OutsideHost {
    name: String,
    /// Its address.
    pub address: String,
}

impl OutsideHost {
    /// Starts one from the image that the nodes run.
    pub fn start() -> OutsideHost {
        let node = nodes().into_iter().next().expect("a cluster has a node");
        let image = docker(&["inspect", "-f", "{{.Config.Image}}", &node.name]).unwrap();
        let name = format!("outside-{}", std::process::id());
        let script = "socat TCP-LISTEN:8080,fork,reuseaddr SYSTEM:'echo $SOCAT_PEERADDR' & \
                      exec socat UDP-RECVFROM:8080,fork SYSTEM:'echo $SOCAT_PEERADDR'";
        docker(&[
            "run",
            "-d",
            "--name",
            &name,
            "--network",
            "kind",
            "--entrypoint",
            "sh",
            &image,
            "-c",
            script,
        ])
        .unwrap();
        let format = "{{.NetworkSettings.Networks.kind.IPAddress}}";
        let address = docker(&["inspect", "-f", format, &name]);
        let mut host = OutsideHost { name, address: String::new() };
        host.address = address.unwrap();
        host
    }
}

impl Drop for OutsideHost {
    fn drop(&mut self) {
        let _ = docker(&["rm", "-f", "-v", &self.name]);
    }
}
