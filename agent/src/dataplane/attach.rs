//! Pinned programs onto their hooks: the uplink, every pod's veth, the node's cgroup root.
//!
//! Each call may be repeated at any time: what stands there already is left alone, an older one
//! of ours is replaced in one step.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use sluice_abi::{pin, program};
use sluice_bpf::attach::{
    AttachError, AttachOutcome, Direction, attach_cgroup, attach_device, detach_cgroup,
    detach_device,
};
use sluice_bpf::netlink::{Netlink, NetlinkError};
use sluice_bpf::{self as bpf, AttachType, BpfError};

/// A hook that could not be served.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The pinned program is not there.
    #[error(transparent)]
    Pin(#[from] BpfError),
    /// No netlink socket.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel refused the attachment.
    #[error("attach {program} to {place}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Device or cgroup.
        place: String,
        /// Why.
        #[source]
        source: AttachError,
    },
    /// The cgroup root cannot be opened.
    #[error("open cgroup {path}")]
    Cgroup {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Opens pinned programs and attaches them.
#[derive(Debug)]
pub struct Hooks {
    netlink: Netlink,
}

/// What a pod's veth gets, seen from the host.
const POD: [(&str, Direction); 2] =
    [(program::FROM_POD, Direction::Ingress), (program::TO_POD, Direction::Egress)];
/// What the uplink gets.
const UPLINK: [(&str, Direction); 2] =
    [(program::FROM_NETDEV, Direction::Ingress), (program::TO_NETDEV, Direction::Egress)];

impl Hooks {
    /// Opens a netlink socket, which clsact needs.
    ///
    /// # Errors
    /// If there is none.
    pub fn open() -> Result<Hooks, HookError> {
        Ok(Hooks { netlink: Netlink::open()? })
    }

    /// Serves the uplink. Returns whether anything changed.
    ///
    /// # Errors
    /// Names the program and the interface.
    pub fn uplink(&mut self, ifindex: u32) -> Result<bool, HookError> {
        self.device(UPLINK, ifindex)
    }

    fn device(
        &mut self,
        hooks: [(&'static str, Direction); 2],
        ifindex: u32,
    ) -> Result<bool, HookError> {
        let mut changed = false;
        for (name, direction) in hooks {
            let prog = open(name)?;
            let done =
                attach_device(&mut self.netlink, ifindex, direction, &prog).map_err(|source| {
                    HookError::Attach {
                        program: name,
                        place: format!("interface {ifindex}"),
                        source,
                    }
                })?;
            changed |= done != AttachOutcome::Unchanged;
        }
        Ok(changed)
    }

    /// Removes all our programs from a device, whichever it was. What is not there any more is
    /// fine. Returns how many there were.
    pub fn clear_device(&mut self, ifindex: u32) -> usize {
        POD.into_iter()
            .chain(UPLINK)
            .filter_map(|(name, direction)| {
                detach_device(&mut self.netlink, ifindex, direction, name).ok()
            })
            .sum()
    }
}

/// Serves the sockets of every process below `root`. Returns how many hooks changed.
///
/// # Errors
/// Names the program; EPERM means that somebody else's program was attached exclusively.
pub fn sockets(root: &Path) -> Result<usize, HookError> {
    let cgroup = open_cgroup(root)?;
    let mut changed = 0;
    for name in program::SOCKET {
        let Some(hook) = AttachType::from_program_name(name) else { continue };
        let prog = open(name)?;
        let done = attach_cgroup(&cgroup, hook, &prog).map_err(|source| HookError::Attach {
            program: name,
            place: root.display().to_string(),
            source,
        })?;
        changed += usize::from(done != AttachOutcome::Unchanged);
    }
    Ok(changed)
}

/// Removes our programs from the cgroup root. Returns how many there were.
///
/// # Errors
/// If the cgroup cannot be opened.
pub fn clear_sockets(root: &Path) -> Result<usize, HookError> {
    let cgroup = open_cgroup(root)?;
    Ok(program::SOCKET
        .iter()
        .filter_map(|name| {
            let hook = AttachType::from_program_name(name)?;
            detach_cgroup(&cgroup, hook, name).ok()
        })
        .sum())
}

fn open_cgroup(root: &Path) -> Result<File, HookError> {
    File::open(root).map_err(|source| HookError::Cgroup { path: root.to_owned(), source })
}

fn open(name: &str) -> Result<OwnedFd, BpfError> {
    bpf::obj_get(&Path::new(pin::PROGRAMS).join(name))
}
