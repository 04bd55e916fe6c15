//! Services that fill a cluster, in a namespace of their own: the kubelet gives pods environment
//! variables for the Services of their namespace.
//!
//! A Service has no selector and one EndpointSlice with one endpoint, so that no controller writes
//! as well. The first [`NODE_PORTS`] have a NodePort; the others are of type LoadBalancer without
//! NodePort, with an external IP in place of the address that a cloud provider would write.
//!
//! The API server counts all allocated addresses for its metrics whenever it allocates one, twice
//! (`Used` in pkg/registry/core/service/ipallocator of Kubernetes 1.34): the time of a Service grows with
//! their number, from 7 ms of a core to 20 ms at 7,500.

use std::ops::Range;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::super::cluster::{BenchCluster, PORT};
use super::super::objects;

/// Namespace of the Services.
const NAMESPACE: &str = "fill";
/// Services with a NodePort: the range has 2,768 ports.
const NODE_PORTS: usize = 2_500;

/// Creates the namespace.
///
/// # Errors
/// When it exists, from a run that was interrupted.
pub fn prepare(cluster: &BenchCluster) -> Result<()> {
    if cluster.kubectl(&["get", "namespace", NAMESPACE]).is_ok() {
        bail!("the cluster has Services of another run: remove it by `cargo xtask cluster down`");
    }
    cluster.kubectl(&["create", "namespace", NAMESPACE])?;
    Ok(())
}

/// Creates Services with these numbers; returns the time in seconds.
///
/// # Errors
/// When kubectl fails.
pub fn create(cluster: &BenchCluster, numbers: Range<usize>) -> Result<f64> {
    let name = format!("{} Services, {}", numbers.end, cluster.network.label());
    let endpoints = [true, false].map(|same_node| cluster.server(same_node).pod.as_str());
    objects::create(cluster, &name, numbers, |number| service(number, endpoints).into())
}

/// The Service with this number and its EndpointSlice; its endpoint is one of `endpoints`.
fn service(number: usize, endpoints: [&str; 2]) -> [Value; 2] {
    let name = format!("fill-{number}");
    let ports = json!([{"name": "bench", "port": PORT, "protocol": "TCP"}]);
    let spec = if number < NODE_PORTS {
        json!({"type": "NodePort", "ports": ports})
    } else {
        json!({
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": false,
            "externalIPs": [external_ip(number)],
            "ports": ports,
        })
    };
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    });
    let endpoint = endpoints[number % endpoints.len()];
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [endpoint]}],
    });
    [service, slice]
}

/// An address of 198.18.0.0/15, the range for benchmarks (RFC 2544).
fn external_ip(number: usize) -> String {
    let [.., a, b, c] = (number as u32).to_be_bytes();
    format!("198.{}.{b}.{c}", 18 + (a & 1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn services_have_a_node_port_or_an_external_ip_of_their_own_and_one_endpoint() {
        let mut external = BTreeSet::new();
        let mut node_ports = 0;
        for number in 0..50_000 {
            let [service, slice] = service(number, ["10.244.1.2", "10.244.0.2"]);
            match service["spec"]["externalIPs"][0].as_str() {
                Some(address) => assert!(external.insert(address.to_owned()), "{address}"),
                None => node_ports += 1,
            }
            let owner = &slice["metadata"]["labels"]["kubernetes.io/service-name"];
            assert_eq!(*owner, service["metadata"]["name"]);
            assert_eq!(slice["endpoints"].as_array().map(Vec::len), Some(1));
        }
        assert_eq!((node_ports, external.len()), (2_500, 47_500));
    }
}
