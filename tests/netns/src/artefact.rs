//! What is under test: built before, found by environment or in its usual place.

use std::path::{Path, PathBuf};

/// The CNI binary.
pub fn cni_binary() -> PathBuf {
    find("SLUICE_CNI_BIN", "target/x86_64-unknown-linux-gnu/cni/sluice-cni")
}

/// The agent.
pub fn agent_binary() -> PathBuf {
    find("SLUICE_AGENT_BIN", "target/x86_64-unknown-linux-gnu/release/sluice")
}

/// The eBPF object.
pub fn bpf_object() -> PathBuf {
    find("SLUICE_BPF_OBJECT", "target/bpf/sluice.o")
}

/// A plugin of the containernetworking project, from the folders where distributions put them.
pub fn plugin(name: &str) -> PathBuf {
    ["/opt/cni/bin", "/usr/lib/cni"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name}: install the package containernetworking-plugins"))
}

fn find(variable: &str, default: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(default),
        PathBuf::from,
    );
    path.canonicalize().unwrap_or_else(|e| {
        panic!("{} ({variable}): {e}: build it by `cargo xtask build`", path.display())
    })
}
