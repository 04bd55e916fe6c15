//! The system call, its commands and the parts of `union bpf_attr` in use
//! (include/uapi/linux/bpf.h). The kernel reads what lies beyond a shorter attribute as zero.

use std::io;

use zerocopy::{Immutable, IntoBytes};

/// Numbers of `enum bpf_cmd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Cmd {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ObjPin = 6,
    ObjGet = 7,
    ProgAttach = 8,
    ProgDetach = 9,
    ProgTestRun = 10,
    ProgFdById = 13,
    MapFdById = 14,
    InfoByFd = 15,
    ProgQuery = 16,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
}

impl Cmd {
    /// Whether a call that a signal interrupted may be repeated as it was. A batch may have
    /// processed entries, and a test run may have run the program.
    fn is_restartable(self) -> bool {
        !matches!(
            self,
            Cmd::MapLookupBatch | Cmd::MapUpdateBatch | Cmd::MapDeleteBatch | Cmd::ProgTestRun
        )
    }
}

#[repr(C)]
#[derive(Default, IntoBytes, Immutable)]
pub(crate) struct MapCreateAttr {
    pub map_type: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub map_flags: u32,
    pub inner_map_fd: u32,
    pub numa_node: u32,
    pub map_name: [u8; 16],
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
    /// File descriptor of a cgroup, or interface index.
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
pub(crate) struct TestRunAttr {
    pub prog_fd: u32,
    pub retval: u32,
    pub data_size_in: u32,
    pub data_size_out: u32,
    pub data_in: u64,
    pub data_out: u64,
    pub repeat: u32,
    pub duration: u32,
    pub ctx_size_in: u32,
    pub ctx_size_out: u32,
    pub ctx_in: u64,
    pub ctx_out: u64,
    pub flags: u32,
    pub cpu: u32,
    pub batch_size: u32,
    pub pad: u32,
}

#[repr(C)]
#[derive(Default, IntoBytes, Immutable)]
pub(crate) struct QueryAttr {
    /// File descriptor of a cgroup, or interface index.
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

/// A failed bpf(2) call: the operation with its object, and the kernel's error as source.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct BpfError {
    /// The operation and its object, such as "write to map LOCAL_PODS".
    pub operation: String,
    /// The kernel's error.
    #[source]
    pub source: io::Error,
}

/// An errno value (see errno(3)).
pub type Errno = i32;

impl BpfError {
    pub(crate) fn new(operation: impl Into<String>, source: io::Error) -> BpfError {
        BpfError { operation: operation.into(), source }
    }

    /// The kernel's error number; 0 if the failure did not come from the kernel.
    pub fn errno(&self) -> Errno {
        self.source.raw_os_error().unwrap_or(0)
    }
}

/// ENOTSUPP, internal to Linux and absent from libc; some bpf(2) commands return it.
pub(crate) const ENOTSUPP: Errno = 524;

/// Whether the kernel does not implement a command for an object.
pub(crate) fn unsupported(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP))
}

/// `None` for ENOENT.
pub(crate) fn unless_absent<T>(result: Result<T, BpfError>) -> Result<Option<T>, BpfError> {
    match result {
        Err(e) if e.errno() == libc::ENOENT => Ok(None),
        other => other.map(Some),
    }
}

/// Calls bpf(2). Non-negative results are returned as they are.
///
/// # Safety
/// Every address in `attr` must be valid for what the command reads and writes there, until the
/// call returns.
pub(crate) unsafe fn bpf<T: IntoBytes + Immutable>(cmd: Cmd, attr: &mut T) -> io::Result<i32> {
    loop {
        // SAFETY: `attr` is a live struct of the size given; the caller guarantees the addresses
        // in it.
        let r = unsafe {
            libc::syscall(libc::SYS_bpf, cmd as i32, std::ptr::from_mut(attr), size_of::<T>())
        };
        if r >= 0 {
            return Ok(r as i32);
        }
        let e = io::Error::last_os_error();
        if e.raw_os_error() != Some(libc::EINTR) || !cmd.is_restartable() {
            return Err(e);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_commands_are_unsupported() {
        for (errno, expected) in [
            (libc::EINVAL, true),
            (libc::EOPNOTSUPP, true),
            (ENOTSUPP, true),
            (libc::ENOENT, false),
            (libc::ENOMEM, false),
            (libc::E2BIG, false),
            (libc::EPERM, false),
        ] {
            assert_eq!(unsupported(&io::Error::from_raw_os_error(errno)), expected, "{errno}");
        }
        assert!(!unsupported(&io::Error::other("not from the kernel")));
    }

    #[test]
    fn batches_and_test_runs_are_not_repeated_after_a_signal() {
        assert!(Cmd::MapUpdate.is_restartable() && Cmd::ProgAttach.is_restartable());
        for cmd in [Cmd::MapLookupBatch, Cmd::MapUpdateBatch, Cmd::MapDeleteBatch, Cmd::ProgTestRun]
        {
            assert!(!cmd.is_restartable(), "{cmd:?}");
        }
    }
}
