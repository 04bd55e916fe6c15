//! Another network namespace, from outside.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use sluice_bpf::netlink::{Netlink, NetlinkError};

/// An open network namespace.
#[derive(Debug)]
pub struct NetNs {
    file: File,
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Why a path is not a pod's network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetNsError {
    /// Nothing is there.
    #[error("there is no network namespace at this path")]
    Missing,
    /// Something else is there.
    #[error("this is not a network namespace")]
    NotOne(#[source] io::Error),
    /// It is the node's own.
    #[error("this is the node's own network namespace")]
    Own,
    /// It cannot be opened or entered.
    #[error("it cannot be entered")]
    Io(#[from] io::Error),
    /// No netlink socket could be opened in it.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl NetNs {
    /// Opens the namespace at `path` (a bind mount, or `/proc/<pid>/ns/net`).
    ///
    /// # Errors
    /// If nothing is there, or it is the caller's own namespace. Whether it is a network namespace
    /// at all shows in [`NetNs::netlink`].
    pub fn open(path: &Path) -> Result<NetNs, NetNsError> {
        let file = File::open(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => NetNsError::Missing,
            _ => NetNsError::Io(e),
        })?;
        let (there, here) = (file.metadata()?, std::fs::metadata("/proc/self/ns/net")?);
        if (there.dev(), there.ino()) == (here.dev(), here.ino()) {
            return Err(NetNsError::Own);
        }
        Ok(NetNs { file })
    }

    /// A netlink socket inside. A thread of its own goes in, opens it and ends: no thread that
    /// does anything else ever changes its namespace.
    ///
    /// # Errors
    /// If this is no network namespace, or the kernel refuses.
    pub fn netlink(&self) -> Result<Netlink, NetNsError> {
        let inside = thread::scope(|scope| {
            scope
                .spawn(|| {
                    // SAFETY: setns takes a live descriptor and changes this thread only.
                    if unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                        let e = io::Error::last_os_error();
                        return Err(match e.raw_os_error() {
                            Some(libc::EINVAL) => NetNsError::NotOne(e),
                            _ => NetNsError::Io(e),
                        });
                    }
                    Ok(Netlink::open()?)
                })
                .join()
        });
        inside.unwrap_or_else(|_| Err(io::Error::other("the thread inside it panicked").into()))
    }
}
