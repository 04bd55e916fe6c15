//! Test cases as data: a manifest, then commands with expectations.
//!
//! `cases/<name>/manifest.yaml` is applied in a namespace of the case. Every Pod with a label `app`
//! and every Deployment in it is awaited Ready. Then the steps of `cases/<name>/steps.yaml` run in
//! order:
//!
//! ```yaml
//! summary: requests to a ClusterIP spread over all ready endpoints
//! steps:
//!   - run: curl -sf -m 3 http://orders/hostname   # in pod `client` unless `on` says otherwise
//!     on: client                                  # a pod, or node/worker0: the node itself
//!     within: 30                                  # seconds to retry; absent: one attempt
//!     expect: {exit: 0, words: [orders-a, orders-b], each: 10}
//!   - kubectl: delete service web                 # in the namespace of the case
//!   - apply: later.yaml                           # another manifest of the folder
//!   - example: allow-dns                          # docs/examples/policies/allow-dns.yaml
//!   - ready: {app: web, count: 2}
//! finally:                                        # also after a failure: what the case changed outside its
//!   - kubectl: delete clusternetworkpolicy --all  # namespace
//! ```
//!
//! Placeholders in manifests and steps: `{{worker0}}`, `{{worker1}}`, `{{control-plane}}` (node names),
//! `{{nodeip N}}`, `{{podip POD}}`, `{{clusterip SERVICE}}`, `{{namespace}}`, `{{outside}}` (the address of a host
//! that is not part of the cluster; started on first use), `{{outside-container}}` (its name, as that of a node in `on`),
//! `{{definition}}` (a file with the definition of
//! ClusterNetworkPolicies).

mod expect;
mod run;
mod template;

use serde::Deserialize;

pub use expect::Expect;
pub use run::run;

/// The contents of `steps.yaml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// One sentence: what the case shows.
    pub summary: String,
    /// Executed in order.
    pub steps: Vec<Step>,
    /// Executed at the end, also when a step fails; `run` and `kubectl` only. Errors are printed.
    #[serde(default)]
    pub finally: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Step {
    /// A shell command with an expectation.
    Run(Command),
    /// A kubectl call in the case's namespace that must succeed.
    Kubectl(Kubectl),
    /// A manifest of the case's folder.
    Apply(Apply),
    /// A policy of the documentation.
    Example(Example),
    /// Waits until exactly `count` pods of an app are Ready.
    Ready(Ready),
}

/// A shell command in a pod or on a node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The command line.
    pub run: String,
    /// Name of a pod, or `node/<name>` for a container that is a node or `{{outside-container}}`.
    #[serde(default = "client")]
    pub on: String,
    /// Seconds in which the expectation may be retried; 0: it must hold at the first attempt.
    #[serde(default)]
    pub within: u64,
    /// What must hold.
    #[serde(default)]
    pub expect: Expect,
}

/// A kubectl call.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kubectl {
    /// Arguments, separated by white space.
    pub kubectl: String,
    /// Seconds in which the call may be repeated until it succeeds; 0: it must succeed at once.
    #[serde(default)]
    pub within: u64,
}

/// A further manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// File name in the case's folder.
    pub apply: String,
}

/// A policy of `docs/examples/policies`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// File name without extension.
    pub example: String,
}

/// Pods to await.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// Which, and how many.
    pub ready: AppCount,
}

/// Value of the label `app`, and a number of pods.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppCount {
    /// Value of the label `app`.
    pub app: String,
    /// Number of Ready pods.
    pub count: usize,
}

fn client() -> String {
    "client".to_owned()
}
