//! Failed netlink requests.

use std::{error, fmt, io};

/// A netlink request that failed: the operation with its object, and the kernel's error as source.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct NetlinkError {
    /// The operation and its object, such as "create veth slc0123456789a".
    pub operation: String,
    /// The kernel's error, with its extended message if it sent one.
    #[source]
    pub source: KernelError,
}

/// Error number and extended message of a response.
#[derive(Debug)]
pub struct KernelError {
    io: io::Error,
    message: Option<String>,
}

impl KernelError {
    pub(super) fn new(errno: i32, message: Option<String>) -> KernelError {
        KernelError { io: io::Error::from_raw_os_error(errno), message }
    }

    /// The extended message, if the kernel sent one.
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    fn errno(&self) -> i32 {
        self.io.raw_os_error().unwrap_or(0)
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(message) => write!(f, "{} (kernel: {message})", self.io),
            None => write!(f, "{}", self.io),
        }
    }
}

impl error::Error for KernelError {}

impl From<io::Error> for KernelError {
    fn from(io: io::Error) -> KernelError {
        KernelError { io, message: None }
    }
}

impl NetlinkError {
    pub(super) fn new(operation: &str, source: impl Into<KernelError>) -> NetlinkError {
        NetlinkError { operation: operation.to_owned(), source: source.into() }
    }

    /// The kernel's error number; 0 if the failure did not come from the kernel.
    pub fn errno(&self) -> i32 {
        self.source.errno()
    }

    /// Whether the object does not exist (device, address, route, neighbour).
    pub fn is_absent(&self) -> bool {
        matches!(
            self.errno(),
            libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO
        )
    }

    /// Whether the object exists already.
    pub fn is_present(&self) -> bool {
        self.errno() == libc::EEXIST
    }
}
