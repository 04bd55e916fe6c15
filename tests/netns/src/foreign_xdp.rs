//! An XDP program of other software.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;
use sluice_bpf::attach::XdpMode;

use crate::Namespaces;

/// The start of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// The start of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program that passes every packet to a device in this mode, until the result is dropped.
///
/// # Panics
/// The kernel refuses it.
pub fn attach_foreign_xdp(namespaces: &Namespaces, device: &str, mode: XdpMode) -> OwnedFd {
    const PROG_LOAD: libc::c_long = 5;
    const LINK_CREATE: libc::c_long = 28;
    const TYPE_XDP: u32 = 6;
    const ATTACH_XDP: u32 = 37;
    // XDP_FLAGS_DRV_MODE and XDP_FLAGS_SKB_MODE.
    let flags = if mode == XdpMode::Native { 4 } else { 2 };
    let ifindex = crate::dataplane::ifindex(namespaces, device);
    namespaces.run(|| {
        // r0 = XDP_PASS; exit
        let instructions: [u64; 2] = [2 << 32 | 0xb7, 0x95];
        let load = Load {
            prog_type: TYPE_XDP,
            insn_cnt: 2,
            insns: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
        };
        // SAFETY: the attribute and what it points to live during the call.
        let program = unsafe { bpf(PROG_LOAD, &load) }.unwrap_or_else(|e| panic!("load: {e}"));
        let prog_fd = program.as_raw_fd() as u32;
        let link = LinkCreate { prog_fd, ifindex, attach_type: ATTACH_XDP, flags };
        // SAFETY: the attribute lives during the call.
        unsafe { bpf(LINK_CREATE, &link) }.unwrap_or_else(|e| panic!("attach to {device}: {e}"))
    })
}

/// Calls a command of bpf(2) that returns a descriptor.
///
/// # Safety
/// The addresses in the attribute are valid during the call.
unsafe fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
