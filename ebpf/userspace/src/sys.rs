//! The system call itself, its commands and the parts of `union bpf_attr` in use
//! (include/uapi/linux/bpf.h). Attributes shorter than the kernel's are read as zero beyond.

use std::io;

use zerocopy::{Immutable, IntoBytes};

/// Numbers of `enum bpf_cmd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Cmd {
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ObjGet = 7,
    ProgAttach = 8,
    ProgDetach = 9,
    ProgFdById = 13,
    MapFdById = 14,
    InfoByFd = 15,
    ProgQuery = 16,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
}

#[repr(C)]
#[derive(Default, IntoBytes, Immutable)]
pub(crate) struct ElemAttr {
    pub map_fd: u32,
    pub pad: u32,
    pub key: u64,
    /// Also `next_key`.
    pub value: u64,
    pub flags: u64,
}

#[repr(C)]
#[derive(Default, IntoBytes, Immutable)]
pub(crate) struct BatchAttr {
    pub in_batch: u64,
    pub out_batch: u64,
    pub keys: u64,
    pub values: u64,
    pub count: u32,
    pub map_fd: u32,
    pub elem_flags: u64,
    pub flags: u64,
}

#[repr(C)]
#[derive(Default, IntoBytes, Immutable)]
pub(crate) struct ObjAttr {
    pub pathname: u64,
    pub bpf_fd: u32,
    pub file_flags: u32,
}

#[repr(C)]
#[derive(Default, IntoBytes, Immutable)]
pub(crate) struct AttachAttr {
    /// A cgroup's descriptor or an interface index.
    pub target: u32,
    pub attach_bpf_fd: u32,
    pub attach_type: u32,
    pub attach_flags: u32,
    pub replace_bpf_fd: u32,
    pub relative: u32,
    pub expected_revision: u64,
}

#[repr(C)]
#[derive(Default, IntoBytes, Immutable)]
pub(crate) struct IdAttr {
    pub id: u32,
    pub next_id: u32,
    pub open_flags: u32,
}

#[repr(C)]
#[derive(Default, IntoBytes, Immutable)]
pub(crate) struct InfoAttr {
    pub bpf_fd: u32,
    pub info_len: u32,
    pub info: u64,
}

#[repr(C)]
#[derive(Default, IntoBytes, Immutable)]
pub(crate) struct QueryAttr {
    /// A cgroup's descriptor or an interface index.
    pub target: u32,
    pub attach_type: u32,
    pub query_flags: u32,
    pub attach_flags: u32,
    pub prog_ids: u64,
    pub prog_cnt: u32,
    pub pad: u32,
    pub prog_attach_flags: u64,
    pub link_ids: u64,
    pub link_attach_flags: u64,
    pub revision: u64,
}

/// A failed bpf(2) call: what was being done to which object, and the kernel's error as source.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct BpfError {
    /// For people: "look up 10.244.1.7 in map LOCAL_PODS".
    pub doing: String,
    /// The kernel's word.
    #[source]
    pub source: io::Error,
}

/// An errno value (see errno(3)).
pub type Errno = i32;

impl BpfError {
    pub(crate) fn new(doing: impl Into<String>, source: io::Error) -> BpfError {
        BpfError { doing: doing.into(), source }
    }

    /// The kernel's error number, 0 if the failure did not come from the kernel.
    pub fn errno(&self) -> Errno {
        self.source.raw_os_error().unwrap_or(0)
    }
}

/// Linux' own ENOTSUPP, which escapes to user space here and there.
pub(crate) const ENOTSUPP: Errno = 524;

/// Whether the kernel says "this command does not exist for this object".
pub(crate) fn unsupported(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP))
}

/// Calls bpf(2). Non-negative results are returned as they are.
///
/// # Safety
/// Every address in `attr` must be valid for what the command reads and writes there, until the
/// call returns.
pub(crate) unsafe fn bpf<T: IntoBytes + Immutable>(cmd: Cmd, attr: &mut T) -> io::Result<i32> {
    loop {
        // SAFETY: `attr` is a live struct of the size given; the addresses in it are the
        // caller's promise.
        let r = unsafe {
            libc::syscall(libc::SYS_bpf, cmd as i32, std::ptr::from_mut(attr), size_of::<T>())
        };
        if r >= 0 {
            return Ok(r as i32);
        }
        let e = io::Error::last_os_error();
        // EINTR ends a batch in the middle and its count must be read first: the caller retries.
        if e.raw_os_error() != Some(libc::EINTR) || (cmd as i32) >= Cmd::MapLookupBatch as i32 {
            return Err(e);
        }
    }
}
