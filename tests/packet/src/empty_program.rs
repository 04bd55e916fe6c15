//! The program that a measurement is compared with.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// `BPF_PROG_LOAD`.
const PROG_LOAD: libc::c_long = 5;
/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;
/// `BPF_PROG_TYPE_XDP`.
const XDP: u32 = 6;

/// The start of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// Loads a tc program that lets every packet pass and does nothing else.
///
/// # Errors
/// When the kernel refuses it: without CAP_BPF, for example.
pub fn load() -> io::Result<OwnedFd> {
    // TC_ACT_UNSPEC
    load_of_type(SCHED_CLS, -1)
}

/// Loads an XDP program that lets every packet pass and does nothing else.
///
/// # Errors
/// As [`load`].
pub fn load_xdp() -> io::Result<OwnedFd> {
    // XDP_PASS
    load_of_type(XDP, 2)
}

fn load_of_type(prog_type: u32, returns: i32) -> io::Result<OwnedFd> {
    // r0 = returns; exit
    let instructions: [u64; 2] = [u64::from(returns as u32) << 32 | 0xb7, 0x95];
    let attr = LoadAttr {
        prog_type,
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: the attribute and what it points to live during the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &attr, size_of::<LoadAttr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
