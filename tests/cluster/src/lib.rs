//! Behaviour of a real kind cluster, driven by kubectl.
//!
//! `cargo xtask test --level cluster` creates the cluster, installs Sluice as a user does, and runs
//! these tests with KUBECONFIG (and DOCKER_HOST, where the engine is not the machine's own) in the
//! environment. Each test creates a namespace and deletes it. Waiting is for conditions with a
//! deadline, and every child process has one.
//!
//! Most tests are data: `cases/<name>/manifest.yaml` and `cases/<name>/steps.yaml` (see [`case`]).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

mod agents;
mod arrivals;
pub mod artefacts;
pub mod capture;
pub mod case;
mod deletions;
pub mod examples;
mod kubectl;
mod load;
mod namespace;
mod node;
pub mod objects;
pub mod process;
mod skip;
mod wait;
mod workload;

pub use agents::{ChangedAgents, KilledAgents};
pub use arrivals::Arrivals;
pub use deletions::Deletions;
pub use kubectl::{
    is_ready, kubectl, kubectl_finished, kubectl_json, rollout, try_kubectl, try_rollout,
};
pub use load::{Failure, Load};
pub use namespace::Namespace;
pub use node::{Node, OutsideHost, docker, dropped, nodes, sluice, workers};
pub use skip::skip;
pub use wait::eventually;
pub use workload::{AGNHOST, client, client_on, host_server_on, replicas, server_on, service};
