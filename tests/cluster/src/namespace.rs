//! A namespace that a test has for itself.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::{eventually, kubectl, kubectl_json, try_kubectl};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A namespace, deleted when it is dropped, whatever became of the test.
pub struct Namespace {
    /// Its name, unique in this run.
    pub name: String,
}

impl Namespace {
    /// Makes `<subject>-<pid>-<n>`.
    pub fn new(subject: &str) -> Namespace {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{subject}-{}-{n}", std::process::id());
        kubectl(&["create", "namespace", &name]);
        Namespace { name }
    }

    /// Applies manifests in this namespace.
    pub fn apply(&self, yaml: &str) {
        try_kubectl(&["-n", &self.name, "apply", "-f", "-"], yaml)
            .unwrap_or_else(|e| panic!("{e}"));
    }

    /// kubectl in this namespace.
    pub fn kubectl(&self, words: &[&str]) -> String {
        kubectl(&[&["-n", &self.name], words].concat())
    }

    /// Waits until `count` pods with label `app=<app>` are Ready, and returns their addresses.
    pub fn ready(&self, app: &str, count: usize) -> Vec<String> {
        eventually(&format!("{count} ready pods of {app}"), Duration::from_secs(120), || {
            let pods = self.pods(app);
            let ready: Vec<String> = pods
                .iter()
                .filter(|pod| {
                    pod["metadata"]["deletionTimestamp"].is_null()
                        && pod["status"]["conditions"].as_array().is_some_and(|all| {
                            all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
                        })
                })
                .filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned))
                .collect();
            if ready.len() == count {
                Ok(ready)
            } else {
                Err(format!(
                    "{} ready; {}",
                    ready.len(),
                    try_kubectl(&["-n", &self.name, "get", "pods", "-o", "wide"], "")
                        .unwrap_or_else(|e| e)
                ))
            }
        })
    }

    /// The pods with label `app=<app>`.
    pub fn pods(&self, app: &str) -> Vec<serde_json::Value> {
        let selector = format!("app={app}");
        let list = kubectl_json(&["-n", &self.name, "get", "pods", "-l", &selector]);
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// The address of a pod.
    pub fn address(&self, pod: &str) -> String {
        self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"])
    }

    /// The ClusterIP of a Service.
    pub fn cluster_ip(&self, service: &str) -> String {
        self.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"])
    }

    /// Runs a shell line in a pod.
    ///
    /// # Errors
    /// What it wrote, when it does not end well.
    pub fn sh(&self, pod: &str, line: &str) -> Result<String, String> {
        try_kubectl(&["-n", &self.name, "exec", pod, "--", "sh", "-c", line], "")
    }

    /// Runs a shell line in a pod until it ends well.
    pub fn sh_eventually(&self, pod: &str, line: &str) -> String {
        eventually(line, Duration::from_secs(30), || self.sh(pod, line))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = try_kubectl(
            &["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"],
            "",
        );
    }
}
