//! Paths of pinned maps and programs in bpffs.
//!
//! ```text
//! /sys/fs/bpf/sluice/v4/maps/LOCAL_PODS
//! /sys/fs/bpf/sluice/v4/programs/from_pod
//! ```
//! The CNI binary opens both by path, so a pod can be connected while no agent runs.

/// Mount point of bpffs.
pub const BPFFS: &str = "/sys/fs/bpf";
/// Directory of this ABI version below [`BPFFS`].
pub const ROOT: &str = "/sys/fs/bpf/sluice/v4";
/// Pinned maps, by [`crate::map`] name.
pub const MAPS: &str = "/sys/fs/bpf/sluice/v4/maps";
/// Pinned programs, by [`crate::program`] name.
pub const PROGRAMS: &str = "/sys/fs/bpf/sluice/v4/programs";

const _: () = assert!(crate::ABI_VERSION == 4, "the paths above carry the version");
