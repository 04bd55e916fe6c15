//! Where maps and programs are pinned in bpffs.
//!
//! ```text
//! /sys/fs/bpf/sluice/v2/maps/LOCAL_PODS
//! /sys/fs/bpf/sluice/v2/programs/from_pod
//! ```
//! The CNI binary finds both by these paths alone, so a pod can be wired while no agent runs.

/// Mount point of bpffs.
pub const BPFFS: &str = "/sys/fs/bpf";
/// Folder of this ABI version below [`BPFFS`].
pub const ROOT: &str = "/sys/fs/bpf/sluice/v2";
/// Pinned maps, by [`crate::map`] name.
pub const MAPS: &str = "/sys/fs/bpf/sluice/v2/maps";
/// Pinned programs, by [`crate::program`] name.
pub const PROGRAMS: &str = "/sys/fs/bpf/sluice/v2/programs";

const _: () = assert!(crate::ABI_VERSION == 2, "the paths above carry the version");
