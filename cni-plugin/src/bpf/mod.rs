//! bpf(2) by hand: pinned objects, typed maps with batches, what the kernel tells of an object.
//!
//! The one place of this crate that makes the system call. What comes in are paths, file
//! descriptors and the plain structs of `sluice-abi`; what goes out are the same structs, owned
//! descriptors and errors that keep the kernel's number. Nothing here loads a program.

mod batch;
mod map;
mod object;
mod program;
mod sys;

pub use map::{Map, possible_cpus};
pub use object::{MapInfo, ProgInfo, map_by_id, map_info, obj_get, prog_by_id, prog_info};
pub use program::{AttachType, Attached, Target, prog_attach, prog_detach, prog_query};
pub use sys::{BpfError, Errno};
