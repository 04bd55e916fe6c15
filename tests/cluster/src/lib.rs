//! Behaviour of a real kind cluster, driven by kubectl.
//!
//! `cargo xtask test --level cluster` makes the cluster, installs Sluice as a user does, and runs these
//! tests with KUBECONFIG (and DOCKER_HOST, where the engine is not the machine's own) in the
//! environment. A test makes a namespace of its own and takes it away again; what it waits for is a
//! condition with a deadline, never a time.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod kubectl;
mod namespace;
mod node;
mod wait;
mod workload;

pub use kubectl::{kubectl, kubectl_json, try_kubectl};
pub use namespace::Namespace;
pub use node::{Node, OutsideHost, docker, nodes, workers};
pub use wait::eventually;
pub use workload::{AGNHOST, client, client_on, replicas, server_on, service};
