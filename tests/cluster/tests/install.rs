//! The result of `kubectl apply -k deploy/`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use cluster_tests::{capture, docker, eventually, kubectl, kubectl_json, nodes, skip};

#[test]
fn all_nodes_are_ready_and_sluice_runs_on_each() {
    let nodes = nodes();
    assert!(nodes.len() >= 3, "{nodes:?}");
    assert!(nodes.iter().all(|n| n.ready), "{nodes:?}");
    let ready = kubectl(&[
        "-n",
        "sluice-system",
        "get",
        "daemonset",
        "sluice",
        "-o",
        "jsonpath={.status.numberReady}",
    ]);
    assert_eq!(ready, nodes.len().to_string());
}

#[test]
fn no_other_network_component_runs() {
    let sets = kubectl(&["get", "daemonsets", "-A", "-o", "jsonpath={.items[*].metadata.name}"]);
    assert_eq!(sets, "sluice", "no kube-proxy, no other CNI");
}

#[test]
fn all_system_pods_run() {
    eventually("all pods to run", Duration::from_secs(120), || {
        let list = kubectl_json(&["get", "pods", "-n", "kube-system"]);
        let bad: Vec<String> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|p| p["status"]["phase"] != "Running")
            .map(|p| p["metadata"]["name"].to_string())
            .collect();
        if bad.is_empty() { Ok(()) } else { Err(format!("{bad:?}")) }
    });
}

#[test]
fn every_pod_address_is_in_the_pod_cidr_of_its_node() {
    let nodes = nodes();
    let list = kubectl_json(&["get", "pods", "-A", "--field-selector=status.phase=Running"]);
    let mut seen = 0;
    for pod in list["items"].as_array().into_iter().flatten() {
        if pod["spec"]["hostNetwork"] == true {
            continue;
        }
        let node = nodes.iter().find(|n| pod["spec"]["nodeName"] == n.name.as_str()).unwrap();
        let address: IpAddr = pod["status"]["podIP"].as_str().unwrap().parse().unwrap();
        let range = node.pod_cidr.unwrap();
        assert!(
            range.contains(&address),
            "{} has {address}, node {range}",
            pod["metadata"]["name"]
        );
        seen += 1;
    }
    assert!(seen >= 2, "no pod with an address, not even CoreDNS");
}

#[test]
fn rendered_manifest_equals_kustomize_output() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");
    let rendered = std::fs::read_to_string(format!("{root}/sluice.yaml")).unwrap();
    let body: String =
        rendered.lines().filter(|l| !l.starts_with('#')).flat_map(|l| [l, "\n"]).collect();
    assert_eq!(body.trim(), kubectl(&["kustomize", root]).trim(), "kubectl kustomize deploy/");
}

#[test]
fn agent_may_only_list_and_watch_what_it_uses_and_write_events() {
    let who = "--as=system:serviceaccount:sluice-system:sluice";
    let kinds = ["nodes", "services", "pods", "namespaces", "endpointslices.discovery.k8s.io"];
    for what in kinds.into_iter().chain(["servicecidrs.networking.k8s.io"]) {
        assert_eq!(kubectl(&["auth", "can-i", "watch", what, who]), "yes", "{what}");
    }
    // The whole of its role: nothing beyond list and watch of these kinds, and Events.
    let role = kubectl_json(&["get", "clusterrole", "sluice"]);
    let rules: BTreeSet<String> =
        role["rules"].as_array().unwrap().iter().map(|rule| rule.to_string()).collect();
    let expected = [
        r#"{"apiGroups":[""],"resources":["nodes","services","pods","namespaces"],"verbs":["list","watch"]}"#,
        r#"{"apiGroups":["discovery.k8s.io"],"resources":["endpointslices"],"verbs":["list","watch"]}"#,
        r#"{"apiGroups":["networking.k8s.io"],"resources":["servicecidrs","networkpolicies"],"verbs":["list","watch"]}"#,
        r#"{"apiGroups":["policy.networking.k8s.io"],"resources":["clusternetworkpolicies"],"verbs":["list","watch"]}"#,
        r#"{"apiGroups":["apiextensions.k8s.io"],"resourceNames":["clusternetworkpolicies.policy.networking.k8s.io"],"resources":["customresourcedefinitions"],"verbs":["list","watch"]}"#,
        r#"{"apiGroups":[""],"resources":["events"],"verbs":["create","patch"]}"#,
    ];
    assert_eq!(rules, expected.into_iter().map(str::to_owned).collect());
    let bindings = kubectl_json(&["get", "clusterrolebindings,rolebindings", "-A"]);
    let bound = bindings["items"].as_array().unwrap().iter().filter(|binding| {
        binding["subjects"].as_array().into_iter().flatten().any(|s| s["name"] == "sluice")
    });
    assert_eq!(bound.count(), 1, "bindings of the service account");
}

/// Without it, the captures of failed cases could be empty.
#[test]
fn captures_of_an_attempt_have_the_packets_of_every_node_with_tcpdump() {
    const DATA: &str = "packet of this test";
    let nodes = nodes();
    let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
    let has_tcpdump = |name: &&String| docker(&["exec", name, "which", "tcpdump"]).is_ok();
    let wanted = names.iter().filter(has_tcpdump).count();
    if wanted == 0 {
        return skip("the node image has no tcpdump");
    }
    let has_data = |path: &PathBuf| {
        fs::read(path).unwrap().windows(DATA.len()).any(|bytes| bytes == DATA.as_bytes())
    };
    // tcpdump can start late on a busy machine.
    eventually("captures of all nodes", Duration::from_secs(60), || {
        let folder = tempfile::tempdir().unwrap();
        let (sent, files) = capture::record(&names, folder.path(), || {
            let mut others = nodes.iter().cycle().skip(1);
            nodes.iter().try_for_each(|from| {
                let to = &others.next().unwrap().address;
                let send = format!("echo {DATA} >/dev/udp/{to}/9");
                docker(&["exec", &from.name, "bash", "-c", &send]).map(drop)
            })
        });
        let with_data = files.iter().filter(|path| has_data(path)).count();
        sent.unwrap();
        if with_data == wanted { Ok(()) } else { Err(format!("{with_data} of {wanted}")) }
    });
}
