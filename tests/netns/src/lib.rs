//! Agent and CNI binary between network namespaces.
//!
//! ```text
//!   node1 .11      node2 .12            each node: a network namespace and a mount namespace with
//!      | eth0         | eth0            its own bpffs, /run and /var/lib, and a cgroup of its own
//!   ===+====== switch +=== 172.30.0.0/24
//!              | .1
//!          near router --- 192.0.2.0/24 --- far router      (the link with the small MTU)
//!                                               | .1
//!                                         203.0.113.0/24 --- outside .10
//! ```
//! - [`World`] makes this and takes it away, also on a panic: the namespaces are held by nothing
//!   but open files, so they go with the test's process whatever becomes of it.
//! - [`Node`] runs the real agent, or loads the programs without one ([`dataplane`]).
//! - [`Pod`] is wired by the real CNI binary as containerd calls it ([`Call`]).
//! - [`peer`] is the program that serves and asks inside pods (`src/bin/netns-peer`).
//!
//! Run by `cargo xtask test --level netns`, as root, in one thread.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod agent;
mod artefact;
mod cgroup;
mod cni;
pub mod dataplane;
mod ip;
pub mod manifest;
mod namespaces;
mod node;
pub mod peer;
mod pod;
mod process;
mod wait;
mod world;

pub use agent::Agent;
pub use artefact::{agent_binary, bpf_object, cni_binary, plugin};
pub use cni::{Call, Outcome};
pub use ip::{ip, ip_fails, ip_json};
pub use namespaces::Namespaces;
pub use node::Node;
pub use pod::{Pod, Sandbox};
pub use process::{Process, Server};
pub use wait::eventually;
pub use world::{OUTSIDE, World};
