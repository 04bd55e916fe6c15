//! The pod network of the clusters that benchmarks compare Sluice with.
//!
//! Each node gets the bridge plugin with host-local addresses from its podCIDR, one route per
//! other node, and one masquerade rule for packets that leave the cluster. The plugin's ipMasq is
//! off: it would also translate traffic between nodes.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::cluster::Cluster;
use crate::progress;

/// kind's default pod range.
const POD_RANGE: &str = "10.244.0.0/16";

struct Node {
    name: String,
    pod_cidr: String,
    address: String,
}

impl Node {
    /// Parses a line `name podCIDR address`; `None` if a part is missing.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().map(str::to_owned);
        Some(Self { name: words.next()?, pod_cidr: words.next()?, address: words.next()? })
    }
}

/// Configures every node.
///
/// # Errors
/// When a node has no podCIDR after a minute or a command on a node fails.
pub fn install_bridge(cluster: &Cluster) -> Result<()> {
    let nodes = nodes(cluster)?;
    for node in &nodes {
        let shell = |script: &str| cluster.on_node(&node.name, &["sh", "-ec", script]);
        for other in nodes.iter().filter(|other| other.name != node.name) {
            shell(&format!("ip route replace {} via {}", other.pod_cidr, other.address))?;
        }
        shell(&format!(
            "iptables -t nat -A POSTROUTING -s {POD_RANGE} ! -d {POD_RANGE} -j MASQUERADE"
        ))?;
        // containerd may read a file while it is written, so the file is renamed when complete.
        shell(&format!(
            "cd /etc/cni/net.d && printf %s '{}' > .bridge && mv .bridge 10-bridge.conflist",
            configuration(&node.pod_cidr)
        ))
        .with_context(|| format!("cannot write the CNI configuration of {}", node.name))?;
    }
    Ok(())
}

/// Waits until every node has a podCIDR and an address.
fn nodes(cluster: &Cluster) -> Result<Vec<Node>> {
    let template = "jsonpath={range .items[*]}{.metadata.name} {.spec.podCIDR} \
                    {.status.addresses[?(@.type==\"InternalIP\")].address}{\"\\n\"}{end}";
    let count = cluster.nodes()?.len();
    progress::wait("podCIDRs of the nodes", Duration::from_secs(60), || {
        let text = cluster
            .kubectl(&["get", "nodes", "-o", template])
            .map_err(|error| error.to_string())?;
        let nodes: Vec<Node> = text.lines().filter_map(Node::parse).collect();
        if nodes.len() == count { Ok(nodes) } else { Err(format!("{} of {count}", nodes.len())) }
    })
}

fn configuration(pod_cidr: &str) -> String {
    json!({
        "cniVersion": "0.4.0",
        "name": "bridge",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": pod_cidr }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::Node;

    #[test]
    fn line_without_pod_cidr_is_not_a_node() {
        assert!(Node::parse("worker 10.244.1.0/24 172.18.0.3").is_some());
        assert!(Node::parse("worker 172.18.0.3").is_none());
    }
}
