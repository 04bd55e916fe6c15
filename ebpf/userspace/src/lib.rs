//! bpf(2) in user space: pinned objects, typed maps with batches, attachment and test runs.
//!
//! This crate is the only one that makes the system call. Input: paths, file descriptors and the
//! plain structs of `sluice-abi`. Output: the same structs, owned descriptors, and errors that keep
//! the kernel's error number. Loading programs is left to aya (`agent/src/kernel/linux/load.rs`); the
//! calls here are those that aya 0.14 lacks (batches, `BPF_F_REPLACE` on cgroups and tcx, test runs
//! with a context) or that the CNI binary needs without aya's size.
//!
//! [`netlink`] is here because clsact filters are attached by rtnetlink; `sluice-pod` uses it too.

pub mod attach;
mod batch;
mod error;
mod map;
pub mod netlink;
mod object;
mod program;
mod raw;
mod sys;
pub mod test_run;

pub use error::error_chain;
pub use map::{Map, possible_cpus};
pub use object::{MapInfo, ProgInfo, map_by_id, map_info, obj_get, prog_by_id, prog_info};
pub use program::{AttachType, Attached, Target, prog_attach, prog_detach, prog_query};
pub use raw::{RawEntries, RawMap};
pub use sys::{BpfError, Errno};
