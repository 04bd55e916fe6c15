//! Programs on hooks: attach, detach, and what is attached.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::sys::{AttachAttr, BpfError, Cmd, QueryAttr, bpf};

/// Numbers of `enum bpf_attach_type` that Sluice uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachType {
    /// connect(2) of an IPv4 socket.
    Connect4 = 10,
    /// connect(2) of an IPv6 socket.
    Connect6 = 11,
    /// Unconnected UDP send, IPv4.
    Sendmsg4 = 14,
    /// Unconnected UDP send, IPv6.
    Sendmsg6 = 15,
    /// UDP receive, IPv4.
    Recvmsg4 = 19,
    /// UDP receive, IPv6.
    Recvmsg6 = 20,
    /// getpeername(2), IPv4.
    Getpeername4 = 29,
    /// getpeername(2), IPv6.
    Getpeername6 = 30,
    /// tc ingress of a device (6.6 and later).
    TcxIngress = 46,
    /// tc egress of a device (6.6 and later).
    TcxEgress = 47,
}

/// What a program is attached to.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// An open cgroup v2 directory.
    Cgroup(BorrowedFd<'a>),
    /// An interface index of the current network namespace.
    Device(u32),
}

impl Target<'_> {
    fn raw(self) -> u32 {
        match self {
            Target::Cgroup(fd) => fd.as_raw_fd() as u32,
            Target::Device(ifindex) => ifindex,
        }
    }
}

/// A program that stands at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Program id.
    pub prog_id: u32,
}

const ALLOW_MULTI: u32 = 1 << 1;
const REPLACE: u32 = 1 << 2;

/// Attaches `prog`, in place of `replace` if one is given. On cgroups others may be attached at
/// the same hook (`BPF_F_ALLOW_MULTI`).
///
/// # Errors
/// EINVAL where the kernel lacks the hook, EEXIST if this very program stands there already,
/// EPERM where another's exclusive program does, ENOENT if `replace` does not stand there.
pub fn prog_attach(
    target: Target<'_>,
    hook: AttachType,
    prog: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> Result<(), BpfError> {
    let mut flags = match target {
        Target::Cgroup(_) => ALLOW_MULTI,
        Target::Device(_) => 0,
    };
    if replace.is_some() {
        flags |= REPLACE;
    }
    let mut attr = AttachAttr {
        target: target.raw(),
        attach_bpf_fd: prog.as_raw_fd() as u32,
        attach_type: hook as u32,
        attach_flags: flags,
        replace_bpf_fd: replace.map_or(0, |fd| fd.as_raw_fd() as u32),
        ..Default::default()
    };
    // SAFETY: the attribute holds no addresses.
    unsafe { bpf(Cmd::ProgAttach, &mut attr) }
        .map(|_| ())
        .map_err(|e| BpfError::new(format!("attach a program at {hook:?} of {target:?}"), e))
}

/// Detaches `prog`.
///
/// # Errors
/// ENOENT if it does not stand there.
pub fn prog_detach(
    target: Target<'_>,
    hook: AttachType,
    prog: BorrowedFd<'_>,
) -> Result<(), BpfError> {
    let mut attr = AttachAttr {
        target: target.raw(),
        attach_bpf_fd: prog.as_raw_fd() as u32,
        attach_type: hook as u32,
        ..Default::default()
    };
    // SAFETY: the attribute holds no addresses.
    unsafe { bpf(Cmd::ProgDetach, &mut attr) }
        .map(|_| ())
        .map_err(|e| BpfError::new(format!("detach a program from {hook:?} of {target:?}"), e))
}

/// The programs at one hook, in the order in which they run.
///
/// # Errors
/// EINVAL where the kernel lacks the hook.
pub fn prog_query(target: Target<'_>, hook: AttachType) -> Result<Vec<Attached>, BpfError> {
    let fail = |e| BpfError::new(format!("list the programs at {hook:?} of {target:?}"), e);
    let mut room = 64usize;
    loop {
        let mut ids = vec![0u32; room];
        let mut attr = QueryAttr {
            target: target.raw(),
            attach_type: hook as u32,
            prog_ids: ids.as_mut_ptr() as u64,
            prog_cnt: room as u32,
            ..Default::default()
        };
        // SAFETY: `ids` has room for the number of words given.
        match unsafe { bpf(Cmd::ProgQuery, &mut attr) } {
            Ok(_) => {
                ids.truncate(attr.prog_cnt as usize);
                return Ok(ids.into_iter().map(|prog_id| Attached { prog_id }).collect());
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && room < 4096 => room *= 4,
            // A device that no tcx program ever stood on.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(fail(e)),
        }
    }
}
