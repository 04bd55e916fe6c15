//! The eBPF side: programs into the kernel and onto their hooks, tables into maps and back.
//!
//! ```text
//! object --load--> pinned maps + programs --attach--> devices, cgroup
//! core::Plan --writer--> maps --read_back--> core (at start)
//! ```
//! aya loads and nothing else; maps are read and written by `sluice_bpf`, which the CNI
//! binary uses too. Nothing here looks at a Kubernetes object.

pub mod attach;
pub mod counters;
pub mod load;
pub mod maps;
pub mod probe;
pub mod read_back;
pub mod writer;
