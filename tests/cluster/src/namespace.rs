//! A namespace for one test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::process::Finished;
use crate::{
    artefacts, eventually, is_ready, kubectl, kubectl_finished, kubectl_json, try_kubectl,
};

/// Time for pods to become Ready; images are on the nodes already.
const READY: Duration = Duration::from_secs(120);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A namespace, deleted when dropped, also when the test fails.
pub struct Namespace {
    /// Its name, unique in this run.
    pub name: String,
}

impl Namespace {
    /// Creates `<subject>-<pid>-<n>`.
    pub fn new(subject: &str) -> Namespace {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{subject}-{}-{n}", std::process::id());
        kubectl(&["create", "namespace", &name]);
        Namespace { name }
    }

    /// Applies manifests in this namespace.
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        try_kubectl(&["-n", &self.name, "apply", "-f", "-"], yaml)
            .unwrap_or_else(|e| panic!("{e}"));
    }

    /// kubectl in this namespace.
    ///
    /// # Errors
    /// The output, if the exit code is not 0.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        try_kubectl(&[&["-n", &self.name], arguments].concat(), "")
    }

    /// kubectl in this namespace; fails the test if that fails.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Waits until exactly `count` pods with label `app=<app>` are Ready and none terminates, and
    /// returns their addresses.
    #[track_caller]
    pub fn ready(&self, app: &str, count: usize) -> Vec<String> {
        eventually(&format!("{count} ready pods of {app}"), READY, || {
            let pods = self.pods(app);
            let ready: Vec<String> = pods
                .iter()
                .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null() && is_ready(pod))
                .filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned))
                .collect();
            if ready.len() == count {
                return Ok(ready);
            }
            let list = try_kubectl(&["-n", &self.name, "get", "pods", "-o", "wide"], "");
            Err(format!("{} ready; {}", ready.len(), list.unwrap_or_else(|e| e)))
        })
    }

    /// The pods with label `app=<app>`.
    pub fn pods(&self, app: &str) -> Vec<serde_json::Value> {
        let selector = format!("app={app}");
        let list = kubectl_json(&["-n", &self.name, "get", "pods", "-l", &selector]);
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// The address of a pod.
    pub fn pod_ip(&self, pod: &str) -> String {
        self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"])
    }

    /// The ClusterIP of a Service.
    pub fn cluster_ip(&self, service: &str) -> String {
        self.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"])
    }

    /// Runs a shell command in a pod; accepts any exit code.
    ///
    /// # Errors
    /// If kubectl exceeds its deadline.
    pub fn exec(&self, pod: &str, script: &str) -> Result<Finished, String> {
        kubectl_finished(&["-n", &self.name, "exec", pod, "--", "sh", "-c", script], "")
    }

    /// Runs a shell command in a pod.
    ///
    /// # Errors
    /// Its output, if the exit code is not 0.
    pub fn sh(&self, pod: &str, script: &str) -> Result<String, String> {
        try_kubectl(&["-n", &self.name, "exec", pod, "--", "sh", "-c", script], "")
    }

    /// Runs a shell command in a pod until its exit code is 0.
    #[track_caller]
    pub fn sh_eventually(&self, pod: &str, script: &str) -> String {
        eventually(script, Duration::from_secs(30), || self.sh(pod, script))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        artefacts::save_if_failing(&self.name);
        let delete = ["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"];
        if let Err(e) = try_kubectl(&delete, "") {
            eprintln!("namespace {} not deleted: {e}", self.name);
        }
    }
}
