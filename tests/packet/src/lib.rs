//! Packets through the real programs in the real kernel (BPF_PROG_TEST_RUN): bytes in; verdict,
//! bytes, map entries and counters out.
//!
//! Most tests are conversations in `cases/*.conv` ([`conversation`]); tests that need loops,
//! statistics or sockets are in Rust. `cargo xtask test --level packet` runs them in a network
//! namespace of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod accept;
mod arp;
mod artefacts;
pub mod bytecode;
mod cgroup;
pub mod checksum;
pub mod command;
mod control_flow;
pub mod conversation;
pub mod corpus;
pub mod counters;
pub mod cpu;
mod datapath;
pub mod empty_program;
pub mod hex;
pub mod longest_path;
pub mod namespace;
mod packet;
mod peer;
mod policy;
pub mod random;
mod run;
mod services;
mod skip;
pub mod stack;
mod tables;
pub mod topology;
pub mod tunnel;
mod xdp;

pub use accept::accept;
pub use arp::arp;
pub use cgroup::InCgroup;
pub use counters::Counters;
pub use datapath::{Datapath, Options, object};
pub use namespace::netns_cookie;
pub use packet::{L4Checksum, Packet, show};
pub use peer::udp_peer;
pub use run::Run;
pub use services::{Endpoint, Sets};
pub use skip::skip;
pub use sluice_bpf::test_run::Action;
pub use tables::{VipPort, node_config, port_ranges, tuple};
pub use topology::{
    CLIENT, CLIENT_IFINDEX, EXTERNAL, FAR_POD, GATEWAY, NODE, OTHER_NODE, PORT, ROUTER, SERVER,
    SERVER_IFINDEX, UPLINK_IFINDEX, VIP, v4,
};
pub use tunnel::Tunnel;
pub use xdp::XdpRun;
