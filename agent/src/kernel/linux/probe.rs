//! Requirements on the kernel and its mounts.

use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use sluice_abi::pin;
use sluice_bpf::attach::CGROUP_ROOT;

/// Oldest supported kernel.
pub const MIN_KERNEL: (u32, u32) = (5, 15);
/// First kernel with tcx (commit e420bed02507); older ones use clsact.
const TCX_KERNEL: (u32, u32) = (6, 6);
/// First kernel with `bpf_set_retval` (commit b44123b4a3dc), with which a socket program returns
/// ECONNREFUSED.
const SET_RETVAL_KERNEL: (u32, u32) = (5, 18);

/// Result of [`run`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Findings {
    /// `uname -r`.
    pub kernel: String,
    /// Unmet requirements, each with its remedy.
    pub missing: Vec<String>,
    /// Other network software on this node, each with its remedy. Only `sluice doctor` fills it.
    pub problems: Vec<String>,
    /// Optional features of newer kernels that are absent, and their replacement.
    pub notes: Vec<String>,
    /// The cgroup v2 mount that socket programs attach to.
    pub cgroup_root: Option<PathBuf>,
}

impl Findings {
    /// All unmet requirements in one line; `None` if all are met.
    pub fn missing_line(&self) -> Option<String> {
        (!self.missing.is_empty()).then(|| {
            format!("this node lacks: {} (kernel {})", self.missing.join("; "), self.kernel)
        })
    }
}

/// Checks kernel version, bpffs, BTF and the cgroup mount (`cgroup_root`, else the usual paths).
pub fn run(cgroup_root: Option<&Path>) -> Findings {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.trim().to_owned();
    let mut missing = Vec::new();
    let mut notes = Vec::new();
    match version(&kernel) {
        Some(v) if v < MIN_KERNEL => {
            missing.push(format!("kernel {}.{} or newer", MIN_KERNEL.0, MIN_KERNEL.1));
        }
        Some(v) => {
            if v < TCX_KERNEL {
                notes.push("tcx absent (6.6): tc programs are attached by clsact".to_owned());
            }
            if v < SET_RETVAL_KERNEL {
                notes.push(
                    "bpf_set_retval absent (5.18): the packet path rejects connections to Services without endpoints"
                        .to_owned(),
                );
            }
        }
        None => missing.push("a readable kernel version in /proc/sys/kernel/osrelease".to_owned()),
    }
    if !is_fs(Path::new(pin::BPFFS), BPF_FS_MAGIC) {
        missing.push(format!(
            "bpffs at {} (mount -t bpf bpf {}; `sluice prepare-node` does it)",
            pin::BPFFS,
            pin::BPFFS
        ));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        missing.push("kernel type information (CONFIG_DEBUG_INFO_BTF)".to_owned());
    }
    let cgroup_root = find_cgroup_root(cgroup_root);
    if cgroup_root.is_none() {
        missing.push("a cgroup v2 mount (--cgroup-root)".to_owned());
    }
    Findings { kernel, missing, problems: Vec::new(), notes, cgroup_root }
}

/// Whether `path` is on a file system of this type.
pub fn is_fs(path: &Path, magic: FsType) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type() == magic)
}

/// The cgroup v2 root: the given path (or `unified` below it, next to a v1 hierarchy), else the
/// usual mounts, as seen from a pod and from the node.
fn find_cgroup_root(given: Option<&Path>) -> Option<PathBuf> {
    let bases: Vec<PathBuf> = match given {
        Some(path) => vec![path.to_owned()],
        None => vec![format!("/host{CGROUP_ROOT}").into(), CGROUP_ROOT.into()],
    };
    bases
        .into_iter()
        .flat_map(|base| [base.clone(), base.join("unified")])
        .find(|path| is_fs(path, CGROUP2_SUPER_MAGIC))
}

/// Major and minor of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_of_distributions_are_parsed() {
        for (text, want) in [
            ("6.18.0", Some((6, 18))),
            ("5.15.0-91-generic", Some((5, 15))),
            ("6.1-rc3", Some((6, 1))),
            ("6", None),
            ("", None),
        ] {
            assert_eq!(version(text), want, "{text}");
        }
        assert!((5, 4) < MIN_KERNEL && (6, 1) > MIN_KERNEL);
    }

    #[test]
    fn unmet_requirements_are_reported_in_one_line() {
        let f = Findings {
            kernel: "5.4.0".into(),
            missing: vec!["kernel 5.15 or newer".into(), "bpffs".into()],
            problems: vec![],
            notes: vec![],
            cgroup_root: None,
        };
        assert_eq!(
            f.missing_line().unwrap(),
            "this node lacks: kernel 5.15 or newer; bpffs (kernel 5.4.0)"
        );
    }
}
