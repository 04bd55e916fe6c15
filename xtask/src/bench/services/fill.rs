//! Services that fill a cluster, in a namespace of their own: the kubelet gives pods environment
//! variables for the Services of their namespace.
//!
//! A Service has no selector and one EndpointSlice with one endpoint, so that no controller writes
//! as well. The first [`NODE_PORTS`] have a NodePort; the others are of type LoadBalancer without
//! NodePort, with an external IP in place of the address that a cloud provider would write.
//!
//! The API server counts all allocated addresses for its metrics whenever it allocates one, twice
//! (`Used` in pkg/registry/core/service/ipallocator of Kubernetes 1.34): the time of a Service grows with
//! their number, from 7 ms of a core to 20 ms at 7,500. So only Services with a NodePort are created by the
//! API server; the others are [written to etcd](super::etcd), with the addresses that they have.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::super::cluster::{BenchCluster, PORT};
use super::super::objects;
use super::etcd::{self, OPERATIONS, Stored};
use crate::progress::{self, Reporter};

/// Namespace of the Services.
const NAMESPACE: &str = "fill";
/// Services with a NodePort: the range has 2,768 ports.
const NODE_PORTS: usize = 2_500;
/// Objects of a Service in etcd.
const OBJECTS: usize = 3;
/// First addresses of the Service range, which the API server keeps for requests that name one: at most so many.
const STATIC: u32 = 256;
/// Time in which the API server has received what was written to etcd.
const LISTED: Duration = Duration::from_secs(60);

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
/// When kubectl fails, or etcd cannot be written.
pub fn create(cluster: &BenchCluster, numbers: Range<usize>) -> Result<f64> {
    let start = Instant::now();
    let name = format!("{} Services, {}", numbers.end, cluster.network.label());
    let endpoints = [true, false].map(|same_node| cluster.server(same_node).pod.as_str());
    let created = numbers.start..numbers.end.min(NODE_PORTS);
    if !created.is_empty() {
        objects::create(cluster, &name, created, |number| {
            vec![node_port_service(number), slice(number, endpoints)]
        })?;
    }
    store(cluster, &name, numbers.start.max(NODE_PORTS)..numbers.end, endpoints)?;
    // The first number is that of the measured Service, which is in another namespace.
    wait_listed(cluster, &name, numbers.end - 1)?;
    Ok(start.elapsed().as_secs_f64())
}

/// Writes Services with these numbers to etcd.
fn store(
    cluster: &BenchCluster,
    name: &str,
    numbers: Range<usize>,
    endpoints: [&str; 2],
) -> Result<()> {
    if numbers.is_empty() {
        return Ok(());
    }
    let start = Instant::now();
    let addresses = free_addresses(cluster, numbers.len())?;
    let services: Vec<(usize, Ipv4Addr)> = numbers.zip(addresses).collect();
    let mut reporter = Reporter::new(name);
    let mut done = 0;
    for chunk in services.chunks(OPERATIONS / OBJECTS) {
        let objects: Vec<Stored> = chunk
            .iter()
            .flat_map(|(number, address)| stored(*number, *address, endpoints))
            .collect();
        etcd::write(cluster, &objects)?;
        done += chunk.len();
        reporter.report(|| format!("{done} of {}", services.len()));
    }
    let rate = services.len() as f64 / start.elapsed().as_secs_f64();
    progress::line(name, &format!("written to etcd, {rate:.0}/s"), start.elapsed());
    Ok(())
}

/// Waits until the API server has as many Services and EndpointSlices of this namespace.
fn wait_listed(cluster: &BenchCluster, name: &str, count: usize) -> Result<()> {
    for resource in ["api/v1/{}/services", "apis/discovery.k8s.io/v1/{}/endpointslices"] {
        let path = resource.replace("{}", &format!("namespaces/{NAMESPACE}"));
        progress::wait(&format!("{name}, {path}"), LISTED, || {
            let list = cluster.kubectl(&["get", "--raw", &format!("/{path}?limit=1")]);
            match listed(&list.map_err(|e| format!("{e:#}"))?) {
                Some(listed) if listed == count => Ok(()),
                listed => Err(format!("{listed:?} of {count}")),
            }
        })?;
    }
    Ok(())
}

/// Number of objects of which a list with `limit=1` has the first.
fn listed(list: &str) -> Option<usize> {
    let list: Value = serde_json::from_str(list).ok()?;
    let items = list["items"].as_array()?.len();
    let remaining = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
    Some(items + usize::try_from(remaining).ok()?)
}

/// Addresses of the Service range that are not allocated.
fn free_addresses(cluster: &BenchCluster, count: usize) -> Result<Vec<Ipv4Addr>> {
    let path = "jsonpath={.spec.cidrs[0]}";
    let range = cluster.kubectl(&["get", "servicecidrs", "kubernetes", "-o", path])?;
    let path = "jsonpath={range .items[*]}{.metadata.name} {end}";
    let used = cluster.kubectl(&["get", "ipaddresses", "-o", path])?;
    free(&range, &used, count)
}

/// The first `count` addresses of a range that are not among the `used` ones, after those that are assigned by
/// request only.
fn free(range: &str, used: &str, count: usize) -> Result<Vec<Ipv4Addr>> {
    let parsed = range.split_once('/').and_then(|(address, len)| {
        let size = 1u32.checked_shl(32u32.checked_sub(len.parse().ok()?)?)?;
        Some((u32::from(address.parse::<Ipv4Addr>().ok()?), size))
    });
    let (first, size) = parsed.with_context(|| format!("Service range {range:?}"))?;
    let used: BTreeSet<Ipv4Addr> = used.split_whitespace().filter_map(|a| a.parse().ok()).collect();
    let all = (STATIC..size.saturating_sub(1)).map(|offset| Ipv4Addr::from(first + offset));
    let free: Vec<_> = all.filter(|address| !used.contains(address)).take(count).collect();
    ensure!(free.len() == count, "{range} has {} free addresses, not {count}", free.len());
    Ok(free)
}

fn service_name(number: usize) -> String {
    format!("fill-{number}")
}

fn ports() -> Value {
    json!([{"name": "bench", "port": PORT, "targetPort": PORT, "protocol": "TCP"}])
}

/// A Service for the API server.
fn node_port_service(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": service_name(number), "namespace": NAMESPACE},
        "spec": {"type": "NodePort", "ports": ports()},
    })
}

/// The EndpointSlice of a Service; its endpoint is one of `endpoints`.
fn slice(number: usize, endpoints: [&str; 2]) -> Value {
    let name = service_name(number);
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "bench", "port": PORT, "protocol": "TCP"}],
        "endpoints": [{"addresses": [endpoints[number % endpoints.len()]]}],
    })
}

/// A Service with an external IP, its EndpointSlice and the allocation of its address.
fn stored(number: usize, address: Ipv4Addr, endpoints: [&str; 2]) -> [Stored; OBJECTS] {
    let name = service_name(number);
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "clusterIP": address, "clusterIPs": [address],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "externalIPs": [external_ip(number)], "ports": ports(), "sessionAffinity": "None",
            "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    });
    let allocation = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": address, "labels": {
            "ipaddress.kubernetes.io/ip-family": "IPv4",
            "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
        }},
        "spec": {"parentRef": {
            "group": "", "resource": "services", "namespace": NAMESPACE, "name": name,
        }},
    });
    let mut objects = [
        (format!("services/specs/{NAMESPACE}/{name}"), service),
        (format!("endpointslices/{NAMESPACE}/{name}"), slice(number, endpoints)),
        (format!("ipaddresses/{address}"), allocation),
    ];
    for (part, (_, object)) in objects.iter_mut().enumerate() {
        object["metadata"]["uid"] = json!(format!("00000000-0000-4000-800{part}-{number:012x}"));
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    objects.map(|(key, object)| Stored { key, object })
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
    fn services_have_a_node_port_or_addresses_of_their_own_and_one_endpoint() {
        let endpoints = ["10.244.1.2", "10.244.0.2"];
        let free = free("10.96.0.0/16", "10.96.0.1 10.96.1.7", 47_500).unwrap_or_default();
        assert_eq!(free.first(), Some(&Ipv4Addr::new(10, 96, 1, 0)));
        let (mut uids, mut keys, mut external) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (number, address) in (NODE_PORTS..50_000).zip(free) {
            let objects = stored(number, address, endpoints);
            let [service, slice, allocation] = objects.each_ref().map(|stored| &stored.object);
            let owner = &slice["metadata"]["labels"]["kubernetes.io/service-name"];
            assert_eq!(*owner, service["metadata"]["name"]);
            assert_eq!(allocation["spec"]["parentRef"]["name"], service["metadata"]["name"]);
            assert_eq!(allocation["metadata"]["name"], service["spec"]["clusterIP"]);
            assert_eq!(slice["endpoints"].as_array().map(Vec::len), Some(1));
            assert!(external.insert(service["spec"]["externalIPs"][0].to_string()));
            for stored in objects {
                assert!(uids.insert(stored.object["metadata"]["uid"].to_string()));
                assert!(keys.insert(stored.key));
            }
        }
        assert!(!keys.contains("ipaddresses/10.96.1.7"), "an address that is in use");
        assert_eq!((external.len(), keys.len()), (47_500, 3 * 47_500));
        assert_eq!(node_port_service(0)["spec"]["type"], "NodePort");
    }

    #[test]
    fn the_length_of_a_list_is_read_from_its_first_object() {
        let list = r#"{"metadata": {"remainingItemCount": 41}, "items": [{}]}"#;
        assert_eq!(listed(list), Some(42));
        assert_eq!(listed(r#"{"metadata": {}, "items": []}"#), Some(0));
        assert_eq!(listed("{}"), None);
    }

    #[test]
    fn a_range_without_enough_addresses_is_an_error() {
        assert!(free("10.96.0.0/23", "", 255).is_ok());
        for (range, count) in [("10.96.0.0/23", 256), ("10.96.0.0", 1), ("10.96.0.0/40", 1)] {
            assert!(free(range, "", count).is_err(), "{range}");
        }
    }
}
