//! kubectl, with a deadline for every call.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::{self, Finished};

/// Longest time of one call. `rollout status` and `wait` have shorter time-outs of their own.
const DEADLINE: Duration = Duration::from_secs(150);

/// Runs `kubectl <arguments>` with `input` on its standard input; accepts any exit code.
///
/// # Errors
/// If kubectl cannot be started or exceeds its deadline.
pub fn kubectl_finished(arguments: &[&str], input: &str) -> Result<Finished, String> {
    process::run(Command::new("kubectl").args(arguments), input, DEADLINE)
}

/// Runs `kubectl <arguments>` with `input` on its standard input.
///
/// # Errors
/// The output, if the exit code is not 0.
pub fn try_kubectl(arguments: &[&str], input: &str) -> Result<String, String> {
    let finished = kubectl_finished(arguments, input)?;
    if finished.code == Some(0) {
        return Ok(finished.stdout);
    }
    let Finished { stdout, stderr, .. } = finished;
    Err(format!("kubectl {}: {stdout} {stderr}", arguments.join(" ")))
}

/// Runs `kubectl <arguments>` and fails the test if that fails.
#[track_caller]
pub fn kubectl(arguments: &[&str]) -> String {
    try_kubectl(arguments, "").unwrap_or_else(|e| panic!("{e}"))
}

/// Waits until a roll-out has finished; fails the test after two minutes.
#[track_caller]
pub fn rollout(namespace: &str, object: &str) {
    try_rollout(namespace, object).unwrap_or_else(|e| panic!("{e}"));
}

/// Waits until a roll-out has finished.
///
/// # Errors
/// The output of kubectl after two minutes.
pub fn try_rollout(namespace: &str, object: &str) -> Result<(), String> {
    let status = ["-n", namespace, "rollout", "status", object, "--timeout=120s"];
    try_kubectl(&status, "").map(|_| ())
}

/// Whether the Ready condition of a node or a pod is True.
pub fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// `kubectl <arguments> -o json`, parsed.
#[track_caller]
pub fn kubectl_json(arguments: &[&str]) -> Value {
    let text = kubectl(&[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("kubectl {arguments:?}: {e}"))
}
