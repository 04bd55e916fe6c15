//! Packets through the real programs in the real kernel (BPF_PROG_TEST_RUN): bytes in; verdict,
//! bytes, map entries and counters out.
//!
//! A test reads as a conversation: forward packet, its reply, the next. Steps share maps. Run by
//! `cargo xtask test --level packet`, which gives the tests a network namespace of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod cgroup;
mod kernel;
mod packet;
mod table;
mod uplink;

pub use cgroup::InCgroup;
pub use kernel::{Kernel, Seen};
pub use packet::{Packet, checksum, show};
pub use sluice_bpf::test_run::{Action, Ran};
pub use table::{
    CLIENT, CLIENT_IFINDEX, FAR_POD, GATEWAY, NEIGHBOUR, NODE, OTHER_NODE, OUTSIDE, PORT, SERVER,
    SERVER_IFINDEX, VIP, v4,
};
pub use uplink::uplink_ifindex;
