//! Changes of the agents' DaemonSet that end with the test.

use serde_json::{Value, json};

use crate::{kubectl_json, try_kubectl, try_rollout};

/// A field of the DaemonSet with another value. The previous value returns when this is dropped, also when
/// the test fails.
#[must_use]
pub struct ChangedAgents {
    path: &'static str,
    previous: Value,
}

impl ChangedAgents {
    /// The command of the agent's container, a list of words.
    pub const COMMAND: &'static str = "/spec/template/spec/containers/0/command";
    /// The labels of the nodes on which agents run; null if there are none.
    pub const NODE_SELECTOR: &'static str = "/spec/template/spec/nodeSelector";

    /// Changes the value at `path` (RFC 6901). Pods are replaced afterwards, which this does not wait for.
    #[track_caller]
    pub fn new(path: &'static str, change: impl FnOnce(&mut Value)) -> ChangedAgents {
        let set = kubectl_json(&["-n", "sluice-system", "get", "daemonset", "sluice"]);
        let previous = set.pointer(path).cloned().unwrap_or_default();
        let mut value = previous.clone();
        change(&mut value);
        // Before the patch, which may have been applied although kubectl fails.
        let agents = ChangedAgents { path, previous };
        agents.patch(&value).unwrap_or_else(|e| panic!("{e}"));
        agents
    }

    fn patch(&self, value: &Value) -> Result<(), String> {
        let operation = match value {
            Value::Null => json!({"op": "remove", "path": self.path}),
            value => json!({"op": "add", "path": self.path, "value": value}),
        };
        let patch = json!([operation]).to_string();
        let object = ["-n", "sluice-system", "patch", "daemonset", "sluice"];
        try_kubectl(&[&object[..], &["--type=json", "-p", &patch]].concat(), "").map(|_| ())
    }
}

impl Drop for ChangedAgents {
    fn drop(&mut self) {
        let restored = self
            .patch(&self.previous)
            .and_then(|()| try_rollout("sluice-system", "daemonset/sluice"));
        if let Err(e) = restored {
            eprintln!("DaemonSet of the agents not restored: {e}");
        }
    }
}
