//! Programs at hooks: attach, detach, query.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::sys::{AttachAttr, BpfError, Cmd, QueryAttr, bpf};

/// The values of `enum bpf_attach_type` that Sluice uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachType {
    /// connect(2) on an IPv4 socket.
    Connect4 = 10,
    /// connect(2) on an IPv6 socket.
    Connect6 = 11,
    /// Sending on an unconnected IPv4 UDP socket.
    Sendmsg4 = 14,
    /// Sending on an unconnected IPv6 UDP socket.
    Sendmsg6 = 15,
    /// Receiving on an IPv4 UDP socket.
    Recvmsg4 = 19,
    /// Receiving on an IPv6 UDP socket.
    Recvmsg6 = 20,
    /// getpeername(2) on an IPv4 socket.
    Getpeername4 = 29,
    /// getpeername(2) on an IPv6 socket.
    Getpeername6 = 30,
    /// Closing a socket (kernel 5.9 and later).
    SockRelease = 34,
    /// tcx ingress of a device (kernel 6.6 and later).
    TcxIngress = 46,
    /// tcx egress of a device (kernel 6.6 and later).
    TcxEgress = 47,
}

/// What a program is attached to.
#[derive(Clone, Copy, Debug)]
pub enum AttachTarget<'a> {
    /// An open cgroup v2 directory.
    Cgroup(BorrowedFd<'a>),
    /// An interface index of the current network namespace.
    Device(u32),
}

impl AttachTarget<'_> {
    fn raw(self) -> u32 {
        match self {
            AttachTarget::Cgroup(fd) => fd.as_raw_fd() as u32,
            AttachTarget::Device(ifindex) => ifindex,
        }
    }
}

const ALLOW_MULTI: u32 = 1 << 1;
const REPLACE: u32 = 1 << 2;

/// Attaches `prog`, replacing `replace` if one is given. A cgroup accepts other programs at the same
/// hook (`BPF_F_ALLOW_MULTI`).
///
/// # Errors
/// EINVAL if the kernel lacks the hook, EEXIST if `prog` is already attached, EPERM if another
/// program is attached exclusively, ENOENT if `replace` is not attached.
pub fn prog_attach(
    target: AttachTarget<'_>,
    hook: AttachType,
    prog: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> Result<(), BpfError> {
    let mut flags = match target {
        AttachTarget::Cgroup(_) => ALLOW_MULTI,
        AttachTarget::Device(_) => 0,
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
/// ENOENT if it is not attached.
pub fn prog_detach(
    target: AttachTarget<'_>,
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

/// Lists the ids of the programs at one hook, in the order in which they run.
///
/// # Errors
/// EINVAL if the kernel lacks the hook.
pub fn prog_query(target: AttachTarget<'_>, hook: AttachType) -> Result<Vec<u32>, BpfError> {
    let fail = |e| BpfError::new(format!("list the programs at {hook:?} of {target:?}"), e);
    let mut capacity = 64usize;
    loop {
        let mut ids = vec![0u32; capacity];
        let mut attr = QueryAttr {
            target: target.raw(),
            attach_type: hook as u32,
            prog_ids: ids.as_mut_ptr() as u64,
            prog_cnt: capacity as u32,
            ..Default::default()
        };
        // SAFETY: `ids` holds the number of words given.
        match unsafe { bpf(Cmd::ProgQuery, &mut attr) } {
            Ok(_) => {
                ids.truncate(attr.prog_cnt as usize);
                return Ok(ids);
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && capacity < 4096 => capacity *= 4,
            // No tcx program was ever attached to this device.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(fail(e)),
        }
    }
}
