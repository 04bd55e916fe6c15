//! bpf(2) in user space: pinned objects, typed maps with batches, attachment and test runs.
//!
//! ```text
//! sys        the system call, its commands and attributes
//! object     open pinned objects and ids; what the kernel reports about a map or a program
//! map        typed maps, one entry per call
//! batch      typed maps, thousands of entries per call; what to do after each response
//! program    attach, detach and query, one call each
//! attach     idempotent attachment: tcx, clsact, cgroup
//! layout     layouts of maps as data, and conversion between two of them
//! test_run   one packet through a loaded program
//! netlink    rtnetlink requests, responses and refusals (clsact filters; sluice-pod)
//! ```
//! Input: paths, file descriptors and the plain structs of `sluice-abi`. Output: the same structs,
//! owned descriptors, and errors that keep the kernel's error number. The crate never loads a
//! program and creates no map that programs use: aya does (`agent/src/kernel/linux/load.rs`).
//!
//! # Why bpf(2) is called without aya
//! This table is the only place that gives the reasons. Two apply: aya 0.14 lacks the call, or the
//! CNI binary needs it: that binary starts once for each pod and opens pinned objects only, so it
//! does not link a loader.
//!
//! | command | reason |
//! |---|---|
//! | `BPF_MAP_{LOOKUP,UPDATE,DELETE}_BATCH` | aya lacks it |
//! | `BPF_PROG_ATTACH` with `BPF_F_REPLACE` (cgroup, tcx) | aya attaches through links; Sluice attaches without them (docs/adr/002) |
//! | `BPF_PROG_DETACH` | counterpart of attachment without links |
//! | `BPF_PROG_QUERY`, `BPF_*_GET_FD_BY_ID`, `BPF_OBJ_GET_INFO_BY_FD` | CNI: CHECK and repeated attachment |
//! | `BPF_OBJ_GET`, `BPF_MAP_*_ELEM`, `BPF_MAP_GET_NEXT_KEY` | CNI: pins and the `LOCAL_PODS` row |
//! | `BPF_MAP_CREATE` | aya creates maps of an object; the description of the maps is in none |
//! | `BPF_OBJ_PIN` | aya pins objects of its own types only; the agent restores pins of maps that it adopted |
//! | `BPF_PROG_TEST_RUN` | aya runs programs of its own types only; here a descriptor is enough |

pub mod attach;
mod batch;
mod cpu;
mod error;
pub mod layout;
mod map;
pub mod netlink;
mod object;
mod program;
mod raw;
mod sys;
pub mod test_run;

pub use cpu::{parse_cpu_list, wait_for_runs};
pub use error::error_chain;
pub use map::Map;
pub use object::{
    MapInfo, ProgInfo, create_record, map_by_id, map_info, obj_find, obj_get, obj_pin, prog_by_id,
    prog_info,
};
pub use program::{AttachTarget, AttachType};
pub(crate) use program::{prog_attach, prog_detach, prog_query};
pub use raw::{RawEntries, RawMap};
pub use sys::{BpfError, Errno};
