//! Paths of pinned maps and programs in bpffs.
//!
//! ```text
//! /sys/fs/bpf/sluice/v4/layouts            description of the maps, for other versions
//! /sys/fs/bpf/sluice/v4/loaded             record of the last load, for the next start of the agent
//! /sys/fs/bpf/sluice/v4/maps/LOCAL_PODS
//! /sys/fs/bpf/sluice/v4/programs/from_pod
//! ```
//! The CNI binary opens maps and programs by path, so a pod can be connected while no agent runs.

/// Mount point of bpffs.
pub const BPFFS: &str = "/sys/fs/bpf";

#[cfg(not(feature = "abi-next"))]
macro_rules! root {
    () => {
        "/sys/fs/bpf/sluice/v4"
    };
}

#[cfg(feature = "abi-next")]
macro_rules! root {
    () => {
        "/sys/fs/bpf/sluice/v5"
    };
}

/// Directory of this ABI version below [`BPFFS`].
pub const ROOT: &str = root!();
/// Name below a version's directory of the pinned array with the description of its maps.
pub const LAYOUTS: &str = "layouts";
/// Name below a version's directory of the pinned array with the record of the last load.
pub const LOADED: &str = "loaded";
/// Pinned maps, by [`crate::map`] name.
pub const MAPS: &str = concat!(root!(), "/maps");
/// Pinned programs, by [`crate::program`] name.
pub const PROGRAMS: &str = concat!(root!(), "/programs");

const _: () = {
    let root = ROOT.as_bytes();
    let version = root[root.len() - 1] - b'0';
    assert!(crate::ABI_VERSION == version as u32, "the paths above carry the version");
};
