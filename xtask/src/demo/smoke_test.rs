//! The smoke test of `cargo xtask demo`: each claim is checked on the cluster; the first claim
//! that fails ends the demo.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::kind::Cluster;
use crate::progress;

const DNS: &str = "10.96.0.10";
const API: &str = "10.96.0.1";
const REQUESTS: usize = 300;

/// A pod of the shop.
struct Pod {
    name: String,
    node: String,
    address: Ipv4Addr,
}

/// Checks and prints every claim.
///
/// # Errors
/// When a claim does not hold.
pub fn run(cluster: &Cluster) -> Result<()> {
    println!("\nSmoke test");
    cluster.wait_ready()?;
    let pods = addresses(cluster)?;
    names(cluster)?;
    spread(cluster, &pods)?;
    other_node(cluster, &pods)?;
    database(cluster)?;
    api_server(cluster)?;
    only_daemonset(cluster)
}

fn from_frontend(cluster: &Cluster, script: &str) -> Result<String> {
    let words =
        ["-n", "shop", "exec", "deployment/frontend", "-c", "web", "--", "sh", "-c", script];
    cluster.kubectl(&words)
}

fn only_daemonset(cluster: &Cluster) -> Result<()> {
    progress::step("no kube-proxy, no other CNI", || {
        let format = "jsonpath={range .items[*]}{.metadata.name} {end}";
        let sets = cluster.kubectl(&["get", "daemonsets", "-A", "-o", format])?;
        ensure!(sets == "sluice", "DaemonSets other than sluice are installed: {sets}");
        Ok(((), "sluice is the only DaemonSet".to_owned()))
    })
}

fn addresses(cluster: &Cluster) -> Result<Vec<Pod>> {
    progress::step("pod addresses lie in podCIDRs", || {
        let format = "jsonpath={range .items[*]}{.metadata.name} {.spec.podCIDR}{\"\\n\"}{end}";
        let text = cluster.kubectl(&["get", "nodes", "-o", format])?;
        let ranges: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| line.split_once(' ')).collect();
        let list = cluster.kubectl(&["get", "pods", "-A", "-o", "json"])?;
        let list: Value = serde_json::from_str(&list)?;
        let pods: Vec<Pod> = list["items"]
            .as_array()
            .context("kubectl lists no pods")?
            .iter()
            .filter(|pod| pod["spec"]["hostNetwork"] != true)
            .map(pod)
            .collect::<Result<_>>()?;
        ensure!(!pods.is_empty(), "no pods exist");
        println!();
        for pod in &pods {
            let range = ranges.get(pod.node.as_str()).copied().unwrap_or("no range");
            println!("    {:<42} {:<22} {:<14} {range}", pod.name, pod.node, pod.address);
            ensure!(inside(pod.address, range), "{} is outside {range}", pod.name);
        }
        let count = pods.len();
        Ok((pods, format!("{count} pods")))
    })
}

fn pod(pod: &Value) -> Result<Pod> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let meta = &pod["metadata"];
    let name = format!("{}/{}", text(&meta["namespace"]), text(&meta["name"]));
    let address = text(&pod["status"]["podIP"]);
    let address =
        address.parse().with_context(|| format!("{name} has no valid address: {address:?}"))?;
    Ok(Pod { name, node: text(&pod["spec"]["nodeName"]), address })
}

/// Whether an address lies in a range like 10.244.1.0/24.
fn inside(address: Ipv4Addr, range: &str) -> bool {
    let Some((network, length)) = range.split_once('/') else { return false };
    let (Ok(network), Ok(length)) = (network.parse::<Ipv4Addr>(), length.parse::<u32>()) else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32 - length.min(32)).unwrap_or(0);
    u32::from(address) & mask == u32::from(network) & mask
}

fn names(cluster: &Cluster) -> Result<()> {
    progress::step("names resolve through CoreDNS", || {
        let resolver = from_frontend(cluster, "grep ^nameserver /etc/resolv.conf")?;
        ensure!(
            resolver == format!("nameserver {DNS}"),
            "resolver of the frontend: {resolver}, expected: {DNS}"
        );
        let service = cluster.kubectl(&[
            "-n",
            "shop",
            "get",
            "service",
            "orders",
            "-o",
            "jsonpath={.spec.clusterIP}",
        ])?;
        let query = format!("dig +short +tries=3 +time=2 orders.shop.svc.cluster.local @{DNS}");
        let answer = from_frontend(cluster, &query)?;
        ensure!(answer == service, "DNS answer: {answer:?}, expected: {service}");
        Ok(((), format!("orders = {answer}, from {DNS}")))
    })
}

fn spread(cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    progress::step("300 requests to http://orders", || {
        let script = format!(
            "for i in $(seq {REQUESTS}); do curl -s --max-time 3 http://orders/hostname; echo; done"
        );
        let text = from_frontend(cluster, &script)?;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for name in text.lines().filter(|line| !line.is_empty()) {
            *counts.entry(name).or_default() += 1;
        }
        println!();
        let replicas: Vec<&Pod> =
            pods.iter().filter(|pod| pod.name.starts_with("shop/orders-")).collect();
        for replica in &replicas {
            let name = replica.name.trim_start_matches("shop/");
            let count = counts.get(name).copied().unwrap_or(0);
            println!("    {name:<42} {:<22} {count:>4}", replica.node);
            ensure!(count > 0, "{name} received none of {REQUESTS} requests");
        }
        let answered: usize = counts.values().sum();
        ensure!(answered == REQUESTS, "{answered} of {REQUESTS} requests answered");
        Ok(((), format!("{answered} answered by {} replicas", counts.len())))
    })
}

fn other_node(cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    progress::step("pod on another node", || {
        let frontend = pods
            .iter()
            .find(|pod| pod.name.starts_with("shop/frontend-"))
            .context("no frontend pod exists")?;
        let remote = pods
            .iter()
            .find(|pod| pod.name.starts_with("shop/orders-") && pod.node != frontend.node)
            .context("every replica is on the frontend's node")?;
        let url = format!("curl -sS --max-time 5 http://{}:8080/hostname", remote.address);
        let answer = from_frontend(cluster, &url)?;
        ensure!(
            remote.name.ends_with(&answer) && !answer.is_empty(),
            "{} answered {answer:?}",
            remote.name
        );
        Ok(((), format!("{} -> {}", frontend.node, remote.node)))
    })
}

fn database(cluster: &Cluster) -> Result<()> {
    progress::step("database:5432", || {
        let answer = from_frontend(cluster, "nc -w 3 database 5432 </dev/null")?;
        ensure!(answer.starts_with("database-"), "the database answered {answer:?}");
        Ok(((), answer))
    })
}

fn api_server(cluster: &Cluster) -> Result<()> {
    progress::step("API server through its Service", || {
        let script = format!(
            "curl -sSk --max-time 5 -H \"Authorization: Bearer \
             $(cat /var/run/secrets/kubernetes.io/serviceaccount/token)\" https://{API}/version"
        );
        let answer = from_frontend(cluster, &script)?;
        let version: Value =
            serde_json::from_str(&answer).with_context(|| format!("{API} answered {answer:?}"))?;
        let version = version.get("gitVersion").and_then(|v| v.as_str());
        let version = version.with_context(|| format!("{API} answered {answer:?}"))?;
        Ok(((), format!("{API}: {version}")))
    })
}

#[cfg(test)]
mod tests {
    use super::inside;

    #[test]
    fn range_contains_only_its_own_addresses() {
        for (address, range, expected) in [
            ([10, 244, 1, 5], "10.244.1.0/24", true),
            ([10, 244, 2, 5], "10.244.1.0/24", false),
            ([10, 244, 2, 5], "0.0.0.0/0", true),
            ([10, 244, 2, 5], "no range", false),
        ] {
            assert_eq!(inside(address.into(), range), expected, "{range}");
        }
    }
}
