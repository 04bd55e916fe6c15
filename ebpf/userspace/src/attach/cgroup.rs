//! Socket programs on a cgroup v2 directory, next to those of other owners.

use std::os::fd::AsFd;

use super::{AttachError, AttachOutcome, attach_multi, detach_multi, programs_multi};
use crate::{AttachTarget, AttachType, ProgInfo};

/// Where cgroup v2 is mounted; beside version 1, in the folder `unified` below.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

impl AttachType {
    /// Attach type of the socket program with this name (`connect4`, ...): the names are equal.
    pub fn from_program_name(name: &str) -> Option<AttachType> {
        Some(match name {
            "connect4" => AttachType::Connect4,
            "connect6" => AttachType::Connect6,
            "sendmsg4" => AttachType::Sendmsg4,
            "sendmsg6" => AttachType::Sendmsg6,
            "recvmsg4" => AttachType::Recvmsg4,
            "recvmsg6" => AttachType::Recvmsg6,
            "getpeername4" => AttachType::Getpeername4,
            "getpeername6" => AttachType::Getpeername6,
            "sock_release" => AttachType::SockRelease,
            _ => return None,
        })
    }
}

/// Attaches `prog` to an open cgroup directory (`BPF_F_ALLOW_MULTI`), or replaces an older program
/// of Sluice atomically.
///
/// # Errors
/// EPERM if another program is attached exclusively to this cgroup or an ancestor; any other error
/// of the kernel.
pub fn attach_cgroup(
    cgroup: impl AsFd,
    hook: AttachType,
    prog: impl AsFd,
) -> Result<AttachOutcome, AttachError> {
    Ok(attach_multi(AttachTarget::Cgroup(cgroup.as_fd()), hook, prog.as_fd())?)
}

/// Lists Sluice's programs at one hook of a cgroup.
///
/// # Errors
/// bpf(2) fails.
pub fn cgroup_programs(cgroup: impl AsFd, hook: AttachType) -> Result<Vec<ProgInfo>, AttachError> {
    Ok(programs_multi(AttachTarget::Cgroup(cgroup.as_fd()), hook)?)
}

/// Detaches Sluice's programs named `name` from a cgroup; returns how many were attached.
///
/// # Errors
/// bpf(2) fails.
pub fn detach_cgroup(
    cgroup: impl AsFd,
    hook: AttachType,
    name: &str,
) -> Result<usize, AttachError> {
    Ok(detach_multi(AttachTarget::Cgroup(cgroup.as_fd()), hook, name)?)
}
