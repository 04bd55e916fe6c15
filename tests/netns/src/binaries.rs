//! Paths of the binaries under test, from the environment or the build's usual output folder.

use std::path::{Path, PathBuf};

/// The CNI binary.
pub fn cni_binary() -> PathBuf {
    find("SLUICE_CNI_BIN", "target/x86_64-unknown-linux-gnu/cni/sluice-cni")
}

/// The agent.
pub fn agent_binary() -> PathBuf {
    find("SLUICE_AGENT_BIN", "target/x86_64-unknown-linux-gnu/release/sluice")
}

/// A version of Sluice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The one under test.
    This,
    /// One with another ABI: other layouts of flows, pods and configuration, another capacity.
    Next,
}

impl Version {
    /// Name of the directory of its pins.
    pub fn pins(self) -> String {
        let number = sluice_abi::ABI_VERSION + if self == Version::This { 0 } else { 1 };
        format!("v{number}")
    }

    /// Its agent.
    pub fn agent(self) -> PathBuf {
        match self {
            Version::This => agent_binary(),
            Version::Next => find("SLUICE_NEXT_AGENT_BIN", "target/next/sluice"),
        }
    }

    /// Its CNI binary.
    pub fn cni(self) -> PathBuf {
        match self {
            Version::This => cni_binary(),
            Version::Next => find("SLUICE_NEXT_CNI_BIN", "target/next/sluice-cni"),
        }
    }
}

/// The eBPF object.
pub fn bpf_object() -> PathBuf {
    find("SLUICE_BPF_OBJECT", "target/bpf/sluice.o")
}

/// A reference plugin of the containernetworking project, from the folders that distributions
/// install it to.
pub fn find_plugin(name: &str) -> Option<PathBuf> {
    ["/opt/cni/bin", "/usr/lib/cni"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
}

/// [`find_plugin`]; panics if it is not installed.
pub fn plugin(name: &str) -> PathBuf {
    find_plugin(name)
        .unwrap_or_else(|| panic!("{name}: install the package containernetworking-plugins"))
}

/// The root of the source tree.
pub(crate) fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A program of this crate: cargo places them in the parent folder of the test binaries.
pub fn own_program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap();
    let folder = if folder.ends_with("deps") { folder.parent().unwrap() } else { folder };
    folder.join(name)
}

fn find(variable: &str, default: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| checkout().join(default), PathBuf::from);
    path.canonicalize()
        .unwrap_or_else(|e| panic!("{} ({variable}): {e}: run `cargo xtask build`", path.display()))
}
