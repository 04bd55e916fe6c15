//! What the CNI binary is made of, and what the agent shares with it.
//!
//! ```text
//! stdin, environment -> spec -> verb -> ipam (which address)
//!                                    -> wiring (netns, device, attach, dataplane)
//! ```
//! For the agent: [`bpf`] (bpf(2) by hand), [`attach`] (programs at devices and cgroups),
//! [`ipam`] (leases), [`host`] (which leases live, and their rows in `ENDPOINTS`),
//! [`verb::reclaim`].

pub mod attach;
pub mod bpf;
pub mod dataplane;
pub mod device;
pub mod host;
pub mod identity;
pub mod ipam;
pub mod netlink;
pub mod netns;
pub mod spec;
pub mod verb;
pub mod wiring;
