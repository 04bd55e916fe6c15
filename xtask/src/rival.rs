//! The network that benchmarks compare with: the plain bridge plugin and routes between nodes.
//!
//! Everything stands in files of ours on the nodes: a bridge with host-local addresses from the
//! node's own range, one route per other node, and one masquerade rule for what leaves the
//! cluster (the plugin's own ipMasq would also rewrite traffic between nodes).

use crate::cluster::Cluster;
use crate::progress;
use anyhow::{Context, Result};
use serde_json::json;
use std::time::Duration;

/// The range that kind gives to pods.
const PODS: &str = "10.244.0.0/16";

/// Writes configuration and routes on every node.
pub fn install_bridge(cluster: &Cluster) -> Result<()> {
    let template = "jsonpath={range .items[*]}{.metadata.name} {.spec.podCIDR} \
                    {.status.addresses[?(@.type==\"InternalIP\")].address}{\"\\n\"}{end}";
    let count = cluster.nodes()?.len();
    let rows = progress::wait("a pod range for every node", Duration::from_secs(60), || {
        let text = cluster
            .kubectl(&["get", "nodes", "-o", template])
            .map_err(|error| error.to_string())?;
        let rows: Vec<Node> = text.lines().filter_map(Node::parse).collect();
        if rows.len() == count { Ok(rows) } else { Err(format!("{} of {count}", rows.len())) }
    })?;
    for node in &rows {
        let shell = |script: &str| cluster.on_node(&node.name, &["sh", "-ec", script]);
        for other in rows.iter().filter(|other| other.name != node.name) {
            shell(&format!("ip route replace {} via {}", other.pods, other.address))?;
        }
        shell(&format!("iptables -t nat -A POSTROUTING -s {PODS} ! -d {PODS} -j MASQUERADE"))?;
        // containerd notices a rename, not a file that grows.
        shell(&format!(
            "printf %s '{}' > /etc/cni/net.d/.bridge && mv /etc/cni/net.d/.bridge /etc/cni/net.d/10-bridge.conflist",
            configuration(&node.pods)
        ))
        .with_context(|| format!("writing the CNI configuration of {}", node.name))?;
    }
    Ok(())
}

struct Node {
    name: String,
    pods: String,
    address: String,
}

impl Node {
    /// A line "name range address": all three, or the node is not complete yet.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().map(str::to_owned);
        Some(Self { name: words.next()?, pods: words.next()?, address: words.next()? })
    }
}

fn configuration(pods: &str) -> String {
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
                    "ranges": [[{ "subnet": pods }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
    .to_string()
}
