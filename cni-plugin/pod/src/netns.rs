//! A pod's network namespace, from outside.

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

/// A path that is not the network namespace of a pod.
#[derive(Debug, thiserror::Error)]
pub enum NetNsError {
    /// The path does not exist.
    #[error("the network namespace does not exist")]
    Missing,
    /// The file is not a network namespace.
    #[error("the file is not a network namespace")]
    WrongKind(#[source] io::Error),
    /// The path is the caller's own namespace.
    #[error("the path is the network namespace of the node")]
    Own,
    /// The namespace cannot be opened or entered.
    #[error("the network namespace cannot be entered")]
    Io(#[from] io::Error),
    /// No netlink socket can be opened inside.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl NetNs {
    /// Opens the namespace at `path` (a bind mount, or `/proc/<pid>/ns/net`).
    ///
    /// # Errors
    /// The path does not exist, cannot be opened, or is the caller's own namespace. A file of
    /// another kind fails in [`NetNs::netlink`] only.
    pub fn open(path: &Path) -> Result<NetNs, NetNsError> {
        let file = File::open(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => NetNsError::Missing,
            _ => NetNsError::Io(e),
        })?;
        let (given, own) = (file.metadata()?, std::fs::metadata("/proc/self/ns/net")?);
        if (given.dev(), given.ino()) == (own.dev(), own.ino()) {
            return Err(NetNsError::Own);
        }
        Ok(NetNs { file })
    }

    /// Opens a netlink socket inside. A separate thread enters the namespace, opens the socket and
    /// ends, so that no other work runs in the pod's namespace.
    ///
    /// # Errors
    /// The file is not a network namespace, the process may not enter it, or the socket cannot be
    /// opened.
    pub fn netlink(&self) -> Result<Netlink, NetNsError> {
        let inside = thread::scope(|scope| {
            scope
                .spawn(|| {
                    // SAFETY: setns takes a live descriptor and changes this thread only.
                    if unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                        let e = io::Error::last_os_error();
                        return Err(match e.raw_os_error() {
                            Some(libc::EINVAL) => NetNsError::WrongKind(e),
                            _ => NetNsError::Io(e),
                        });
                    }
                    Ok(Netlink::open()?)
                })
                .join()
        });
        inside.unwrap_or_else(|_| {
            Err(io::Error::other("the thread inside the namespace panicked").into())
        })
    }
}
