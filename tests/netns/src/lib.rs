//! Agent and CNI binary between network namespaces.
//!
//! ```text
//!   node1 .11      node2 .12            each node: a network namespace and a mount namespace with
//!      | eth0         | eth0            its own bpffs, /run and /var/lib, and its own cgroup
//!   ===+====== switch +=== 172.30.0.0/24
//!              | .1
//!          near router --- 192.0.2.0/24 --- far router      (the link with the small MTU)
//!                                               | .1
//!                                         203.0.113.0/24 --- outside .10
//! ```
//! - [`Topology`] creates this and removes it, also after a panic or a signal: only open files of
//!   the test process keep the namespaces alive.
//! - [`Node`] runs the agent, or loads the programs without one ([`dataplane`]).
//! - [`Pod`] gets its interface from the CNI binary, called as containerd does ([`CniCall`]).
//! - [`Host`] runs servers and clients in nodes and pods (`src/bin/netns-peer`).
//!
//! Run by `cargo xtask test --level netns`, as root.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod agent;
pub mod artefacts;
mod binaries;
pub mod capture;
mod cgroup;
pub mod cni;
pub mod dataplane;
mod foreign_xdp;
mod host;
mod ip;
pub mod manifest;
mod namespaces;
mod node;
pub mod peer;
mod pod;
mod process;
mod skip;
mod steps;
mod topology;
mod tunnel;
mod wait;

pub use agent::Agent;
pub use binaries::{
    Version, agent_binary, bpf_object, cni_binary, find_plugin, own_program, plugin,
};
pub use cgroup::Cgroup;
pub use cni::{CniCall, CniOutput};
pub use foreign_xdp::attach_foreign_xdp;
pub use host::Host;
pub use ip::{command, command_within, ip, ip_json, output_within};
pub use namespaces::Namespaces;
pub use node::{BIN_FILE, CONF_FILE, Node, agents, sysctl};
pub use pod::{Pod, Sandbox};
pub use process::{Process, Server, cpu_seconds};
pub use skip::{kernel_is_at_least, skip, skip_case};
pub use topology::{NodeOptions, OUTSIDE, SECOND_OUTSIDE, Topology, TopologyOptions};
pub use tunnel::Tunnel;
pub use wait::{eventually, eventually_equals, scaled};
