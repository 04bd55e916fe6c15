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

use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::super::cluster::{BenchCluster, PORT};
use crate::cache::target;
use crate::progress::{self, Reporter};

/// Namespace of the Services.
const NAMESPACE: &str = "fill";
/// Services with a NodePort: the range has 2,768 ports.
const NODE_PORTS: usize = 2_500;
/// Services that one kubectl creates, with their EndpointSlices.
const CHUNK: usize = 100;
/// kubectl processes at a time.
const WORKERS: usize = 4;
/// How often a progress line is due.
const POLL: Duration = Duration::from_millis(500);

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
    let chunks = chunks(numbers.clone());
    let start = Instant::now();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (sender, results) = mpsc::channel();
    let mut reporter = Reporter::new(&name);
    thread::scope(|scope| {
        for worker in 0..WORKERS.min(chunks.len()) {
            let (sender, chunks, next, done) = (sender.clone(), &chunks, &next, &done);
            scope.spawn(move || {
                while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = create_chunk(cluster, worker, chunk.clone());
                    done.fetch_add(chunk.len(), Ordering::Relaxed);
                    let failed = result.is_err();
                    let _ = sender.send(result);
                    if failed {
                        // The other workers end too.
                        next.store(chunks.len(), Ordering::Relaxed);
                    }
                }
            });
        }
        drop(sender);
        loop {
            match results.recv_timeout(POLL) {
                Ok(result) => result?,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            reporter.report(|| format!("{} of {}", done.load(Ordering::Relaxed), numbers.len()));
        }
    })
    .map_err(|error: anyhow::Error| error.context(name.clone()))?;
    let took = start.elapsed();
    let rate = numbers.len() as f64 / took.as_secs_f64();
    progress::line(&name, &format!("created, {rate:.0}/s"), took);
    Ok(took.as_secs_f64())
}

/// Parts of at most [`CHUNK`] numbers.
fn chunks(numbers: Range<usize>) -> Vec<Range<usize>> {
    let end = numbers.end;
    numbers.step_by(CHUNK).map(|first| first..(first + CHUNK).min(end)).collect()
}

fn create_chunk(cluster: &BenchCluster, worker: usize, numbers: Range<usize>) -> Result<()> {
    let endpoints = [true, false].map(|same_node| cluster.server(same_node).pod.as_str());
    let items: Vec<Value> = numbers.flat_map(|n| objects(n, endpoints)).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let folder = target().join("bench");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("fill-{:?}-{worker}.json", cluster.network));
    fs::write(&file, serde_json::to_vec(&list)?)?;
    cluster.create(&file)?;
    fs::remove_file(file)?;
    Ok(())
}

/// The Service with this number and its EndpointSlice; its endpoint is one of `endpoints`.
fn objects(number: usize, endpoints: [&str; 2]) -> [Value; 2] {
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
    fn chunks_are_all_numbers_once() {
        assert_eq!(chunks(1..1), []);
        assert_eq!(chunks(1..250), [1..101, 101..201, 201..250]);
    }

    #[test]
    fn services_have_a_node_port_or_an_external_ip_of_their_own_and_one_endpoint() {
        let mut external = BTreeSet::new();
        let mut node_ports = 0;
        for number in 0..50_000 {
            let [service, slice] = objects(number, ["10.244.1.2", "10.244.0.2"]);
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
