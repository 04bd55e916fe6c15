//! The manifests below deploy/: what a node needs to run the agent, and that the Helm chart renders
//! the objects of kustomize ([`chart`]).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

mod chart;
mod template;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_yaml::Value;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn objects(yaml: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(yaml)
        .map(|document| Value::deserialize(document).unwrap())
        .filter(|object| !object.is_null())
        .collect()
}

fn daemonset(yaml: &str) -> Value {
    objects(yaml).into_iter().find(|object| object["kind"] == "DaemonSet").unwrap()
}

/// The pod specifications of the agent and of the uninstaller.
fn pod_specs() -> [Value; 2] {
    ["sluice.yaml", "uninstall.yaml"]
        .map(|path| daemonset(&read(path))["spec"]["template"]["spec"].clone())
}

fn agent(spec: &Value) -> &Value {
    let containers = spec["containers"].as_sequence().unwrap();
    containers.iter().find(|container| container["name"] == "agent").unwrap()
}

/// Bytes of a quantity such as 128Mi.
fn mebibytes(quantity: &Value) -> u64 {
    quantity.as_str().unwrap().strip_suffix("Mi").unwrap().parse().unwrap()
}

#[test]
fn pods_may_use_bpf_on_nodes_with_apparmor_seccomp_and_selinux() {
    for spec in pod_specs() {
        let security = &spec["securityContext"];
        assert_eq!(security["appArmorProfile"]["type"], "Unconfined");
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(security["seLinuxOptions"]["type"], "spc_t");
    }
}

#[test]
fn only_the_container_that_mounts_bpffs_is_privileged() {
    for spec in pod_specs() {
        let lists = ["initContainers", "containers"].map(|list| spec[list].as_sequence().unwrap());
        for container in lists.into_iter().flatten() {
            let security = &container["securityContext"];
            if container["name"] == "prepare-node" {
                assert_eq!(security["privileged"], true);
                // The agent installs the CNI binary: that of a new version requires programs that have
                // taken over.
                let mounts = container["volumeMounts"].as_sequence().unwrap();
                let names: Vec<&Value> = mounts.iter().map(|mount| &mount["name"]).collect();
                assert_eq!(names, ["bpffs"]);
                continue;
            }
            assert!(security["privileged"].is_null(), "{container:?}");
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["capabilities"]["drop"], Value::from(vec!["ALL"]));
            assert_eq!(
                security["capabilities"]["add"],
                Value::from(vec!["NET_ADMIN", "DAC_OVERRIDE", "SYS_ADMIN"])
            );
        }
    }
}

#[test]
fn every_node_runs_a_pod_that_is_evicted_last() {
    for spec in pod_specs() {
        assert_eq!(spec["priorityClassName"], "system-node-critical");
        assert_eq!(
            spec["tolerations"],
            serde_yaml::from_str::<Value>("[{operator: Exists}]").unwrap()
        );
        assert_eq!(spec["hostNetwork"], true);
    }
}

#[test]
fn agent_is_the_default_container_and_is_updated_node_by_node() {
    let set = daemonset(&read("sluice.yaml"));
    let annotations = &set["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["kubectl.kubernetes.io/default-container"], "agent");
    let strategy = &set["spec"]["updateStrategy"];
    assert_eq!(strategy["type"], "RollingUpdate");
    assert_eq!(strategy["rollingUpdate"]["maxUnavailable"], 1);
}

#[test]
fn drops_of_all_nodes_are_asked_in_the_agents_container() {
    let set = daemonset(&read("sluice.yaml"));
    let template = &set["spec"]["template"];
    let (key, value) = sluice_agent::source::agents::LABEL.split_once('=').unwrap();
    assert_eq!(template["metadata"]["labels"][key], value);
    let containers = template["spec"]["containers"].as_sequence().unwrap();
    assert!(containers.iter().any(|c| c["name"] == sluice_agent::source::agents::CONTAINER));
}

#[test]
fn memory_request_covers_the_maps_and_there_is_no_limit() {
    let [spec, _] = pod_specs();
    let resources = &agent(&spec)["resources"];
    assert!(mebibytes(&resources["requests"]["memory"]) >= 96, "{resources:?}");
    assert!(resources["limits"].is_null(), "{resources:?}");
}

#[test]
fn role_has_the_watched_kinds_and_writes_events_only() {
    let role =
        objects(&read("sluice.yaml")).into_iter().find(|o| o["kind"] == "ClusterRole").unwrap();
    let mut resources = BTreeSet::new();
    for rule in role["rules"].as_sequence().unwrap() {
        let is_events = rule["resources"] == Value::from(vec!["events"]);
        let verbs = if is_events { ["create", "patch"] } else { ["list", "watch"] };
        assert_eq!(rule["verbs"], Value::from(verbs.to_vec()), "{rule:?}");
        if rule["resources"] == Value::from(vec!["customresourcedefinitions"]) {
            let name = "clusternetworkpolicies.policy.networking.k8s.io";
            assert_eq!(rule["resourceNames"], Value::from(vec![name]));
        }
        resources
            .extend(rule["resources"].as_sequence().unwrap().iter().map(|r| r.as_str().unwrap()));
    }
    let expected = [
        "clusternetworkpolicies",
        "customresourcedefinitions",
        "endpointslices",
        "events",
        "namespaces",
        "networkpolicies",
        "nodes",
        "pods",
        "servicecidrs",
        "services",
    ];
    assert_eq!(resources, BTreeSet::from(expected));
}

#[test]
fn metrics_are_served_to_other_hosts_by_choice_only() {
    let [spec, _] = pod_specs();
    assert!(!serde_yaml::to_string(agent(&spec)).unwrap().contains("--metrics-bind"));
    let component = read("metrics/kustomization.yaml");
    assert!(component.contains("--metrics-bind=0.0.0.0:10249"), "{component}");
    let service = &objects(&read("metrics/service.yaml"))[0];
    assert_eq!(service["spec"]["clusterIP"], "None");
    assert_eq!(service["spec"]["ports"][0]["port"], 10249);
}

#[test]
fn uninstaller_cleans_the_host_before_it_is_ready() {
    let [_, spec] = pod_specs();
    let command = |container: &Value| {
        serde_yaml::from_value::<Vec<String>>(container["command"].clone()).unwrap()
    };
    let cleanup = command(&spec["initContainers"][0]);
    assert_eq!(cleanup[1..3], ["cleanup", "--host-root=/host"]);
    assert!(command(&spec["containers"][0]).contains(&"--hold".to_owned()));
    assert_eq!(spec["volumes"][0]["hostPath"]["path"], "/");
    assert_eq!(spec["automountServiceAccountToken"], false);
}
