//! Socket programs on a cgroup v2 directory, beside those of others.

use std::os::fd::AsFd;

use super::{AttachError, Done, attach_multi, detach_multi, programs_multi};
use crate::{AttachType, ProgInfo, Target};

/// The attach type of the socket program with this name, which is the same word.
impl AttachType {
    /// `connect4` and so on; `None` for anything else.
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
            _ => return None,
        })
    }
}

/// Attaches `prog` to an open cgroup directory (`BPF_F_ALLOW_MULTI`), or puts it in the place of
/// an older one of ours in one step.
///
/// # Errors
/// EPERM where another program was attached exclusively above or here.
pub fn attach_cgroup(
    cgroup: impl AsFd,
    hook: AttachType,
    prog: impl AsFd,
) -> Result<Done, AttachError> {
    Ok(attach_multi(Target::Cgroup(cgroup.as_fd()), hook, prog.as_fd())?)
}

/// Our programs at one hook of a cgroup.
///
/// # Errors
/// What the kernel says.
pub fn cgroup_programs(cgroup: impl AsFd, hook: AttachType) -> Result<Vec<ProgInfo>, AttachError> {
    Ok(programs_multi(Target::Cgroup(cgroup.as_fd()), hook)?)
}

/// Removes our programs with this name from a cgroup; tells how many there were.
///
/// # Errors
/// What the kernel says.
pub fn detach_cgroup(
    cgroup: impl AsFd,
    hook: AttachType,
    name: &str,
) -> Result<usize, AttachError> {
    Ok(detach_multi(Target::Cgroup(cgroup.as_fd()), hook, name)?)
}
