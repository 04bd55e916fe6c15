//! Changes of the agents' DaemonSet, and of its pods, that end with the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::wait::within;
use crate::{Node, docker, is_ready, kubectl_json, try_kubectl, try_rollout};

/// Kills the agent of a node at work, then its successor as soon as kubelet has started it.
const KILL_TWICE: &str = "\
last=; for n in 1 2; do
  until agent=$(pgrep -f '/[s]luice agent') && [ \"$agent\" != \"$last\" ]; do sleep 0.1; done
  kill -KILL $agent; last=$agent
done";

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

/// Agents that are killed on all nodes again and again, half of the times while they start, until this is dropped.
/// Then they run again.
#[must_use]
pub struct KilledAgents {
    ended: Arc<AtomicBool>,
    /// Returns how many were killed.
    thread: Option<JoinHandle<Result<usize, String>>>,
}

impl KilledAgents {
    /// Begins to kill the agents of these nodes, which are all nodes.
    pub fn start(nodes: &[Node]) -> KilledAgents {
        let (nodes, ended) = (nodes.to_vec(), Arc::new(AtomicBool::new(false)));
        let end = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            let mut killed = 0;
            while !end.load(Ordering::Relaxed) {
                killed += kill_twice(&nodes)?;
            }
            Ok(killed)
        });
        KilledAgents { ended, thread: Some(thread) }
    }

    /// Waits until all agents run again, and returns how many were killed.
    #[track_caller]
    pub fn finish(mut self) -> usize {
        self.end().unwrap_or_else(|e| panic!("{e}"))
    }

    fn end(&mut self) -> Result<usize, String> {
        let Some(thread) = self.thread.take() else { return Ok(0) };
        self.ended.store(true, Ordering::Relaxed);
        let killed = thread.join().map_err(|_| "the thread that kills agents has failed");
        try_rollout("sluice-system", "daemonset/sluice")?;
        killed?
    }
}

impl Drop for KilledAgents {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            eprintln!("agents do not run: {e}");
        }
    }
}

/// Kills every agent at work, then its successor while it starts; returns when new pods have ready agents.
fn kill_twice(nodes: &[Node]) -> Result<usize, String> {
    let script = ["timeout", "90", "sh", "-c", KILL_TWICE];
    let kill = |node: &Node| docker(&[&["exec", node.name.as_str()][..], &script].concat());
    thread::scope(|scope| {
        let threads: Vec<_> = nodes.iter().map(|node| scope.spawn(move || kill(node))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic").map(drop))
    })?;
    // kubelet waits longer before each restart of a container, but not in a new pod.
    let pods = ["-n", "sluice-system", "delete", "pods", "-l", "app.kubernetes.io/name=sluice"];
    try_kubectl(&[&pods[..], &["--grace-period=1"]].concat(), "")?;
    try_rollout("sluice-system", "daemonset/sluice")?;
    within(Duration::from_secs(90), || {
        let text = try_kubectl(&["-n", "sluice-system", "get", "pods", "-o", "json"], "")?;
        let list: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        match list["items"].as_array().into_iter().flatten().filter(|pod| is_ready(pod)).count() {
            ready if ready == nodes.len() => Ok(2 * ready),
            ready => Err(format!("{ready} agents are ready")),
        }
    })
}
