//! Memory of the Pods of a large cluster. A process of its own: it compares resident sets.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

use std::fs;

use serde_json::json;
use sluice_agent::source::convert;
use sluice_core::Index;
use sluice_core::model::{Change, Kind, Object, ObjectName};

const PODS: usize = 150_000;
const LIMIT_MIB: usize = 45;

/// Resident set in KiB.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn uid(n: usize) -> String {
    format!("{n:08x}-0000-4000-8000-0123456789ab")
}

fn address(n: usize) -> String {
    format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255)
}

/// A Pod as the API server sends it: nine of ten belong to a Deployment with ten replicas, the others
/// to a StatefulSet, whose Pods have labels of their own.
fn pod(n: usize) -> Object {
    let owner = n / 10;
    let namespace = format!("team-{}", owner % 500);
    let app = format!("orders-backend-{owner}");
    let mut labels = json!({
        "app.kubernetes.io/name": app, "app.kubernetes.io/instance": app,
        "app.kubernetes.io/version": "1.12.3", "tier": "backend",
    });
    let name = if owner.is_multiple_of(10) {
        let name = format!("{app}-{}", n % 10);
        labels["controller-revision-hash"] = format!("{app}-7c5b9d6f4").into();
        labels["statefulset.kubernetes.io/pod-name"] = name.clone().into();
        labels["apps.kubernetes.io/pod-index"] = (n % 10).to_string().into();
        name
    } else {
        labels["pod-template-hash"] = format!("7c5b9{owner}").into();
        format!("{app}-7c5b9{owner}-{:05x}", n * 31)
    };
    let json = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": name, "namespace": namespace, "uid": uid(n), "labels": labels,
            "resourceVersion": n.to_string(), "annotations": {"a": "x".repeat(200)},
        },
        "spec": {
            "nodeName": format!("node-{}", n % 5000),
            "containers": [{
                "name": "main", "image": "registry/orders:1.12.3",
                "ports": [
                    {"name": "http", "containerPort": 8080, "protocol": "TCP"},
                    {"name": "metrics", "containerPort": 9090, "protocol": "TCP"},
                ],
            }],
        },
        "status": {"phase": "Running", "podIP": address(n), "podIPs": [{"ip": address(n)}]},
    });
    convert::from_json(Kind::Pod, json.to_string().as_bytes()).unwrap()
}

#[test]
fn pods_of_a_large_cluster_take_at_most_45_mib() {
    let mut index = Index::new("node-1");
    // What the conversion itself needs.
    index.apply(Change::Apply(pod(0)));
    let before = resident();
    let mut names: Vec<ObjectName> = Vec::new();
    for n in 0..PODS {
        let pod = pod(n);
        names.push(pod.name());
        index.apply(Change::Apply(pod));
    }
    // The end of a list.
    index.apply(Change::Retain(Kind::Pod, names));
    sluice_agent::heap::trim();
    let mib = (resident() - before) / 1024;
    println!("{PODS} Pods: {mib} MiB, {} bytes each", mib * 1024 * 1024 / PODS);
    assert_eq!(index.pods().count(), PODS);
    assert!(mib <= LIMIT_MIB, "{mib} MiB");
}
