//! What the CNI binary is made of, and what the agent shares with it.
//!
//! - [`bpf`]: bpf(2) by hand: typed maps with batches, pins, object information.
//! - [`attach`]: programs on devices (tcx, or clsact before 6.6) and on cgroups, idempotent.
//! - [`netlink`]: blocking rtnetlink.

pub mod attach;
pub mod bpf;
pub mod netlink;
