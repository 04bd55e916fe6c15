//! A failed operation on the node.

use std::io;

use sluice_bpf::BpfError;
use sluice_bpf::netlink::NetlinkError;
use sluice_pod::NetworkError;
use sluice_pod::inventory::OpenError;
use sluice_pod::lease::StoreError;
use sluice_pod::netns::NetNsError;

use super::linux::load::LoadError;
use super::linux::migration::MigrationError;
use super::linux::{CgroupError, HookError, InstallError, SysctlError};

/// A failed operation; its text names the object, its sources give the reason.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// bpf(2) failed.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// The kernel's random numbers could not be read.
    #[error("cannot read /dev/urandom")]
    Random(#[source] io::Error),
    /// A netlink request failed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A program could not be attached.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The cgroup root is not accessible.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A sysctl has another value and cannot be set.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The leases could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A pod's network namespace could not be entered.
    #[error("enter the pod's network namespace")]
    NetNs(#[from] NetNsError),
    /// A part of a pod's path could not be restored.
    #[error(transparent)]
    PodNetwork(#[from] NetworkError),
    /// The state of another version could not be taken over.
    #[error("take over from another version")]
    Migration(#[from] MigrationError),
    /// Programs or maps could not be loaded.
    #[error("load programs and maps")]
    Load(#[from] LoadError),
    /// A CNI file could not be installed.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// Any other operation.
    #[error("{operation}")]
    Io {
        /// Operation and object.
        operation: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl From<OpenError> for KernelError {
    fn from(e: OpenError) -> KernelError {
        match e {
            OpenError::Store(e) => e.into(),
            OpenError::Rebuild(e) => e.into(),
        }
    }
}

impl KernelError {
    /// Whether the agent is to stop: the operation did not fail.
    pub fn is_stopping(&self) -> bool {
        matches!(self, KernelError::Load(LoadError::Stopping))
    }

    /// Whether the operation is possible when an earlier switch has ended.
    pub fn is_unfinished_switch(&self) -> bool {
        matches!(self, KernelError::Migration(MigrationError::FlowsNotCopied))
    }

    /// An error of an operation that has no type of its own.
    pub fn io(operation: impl Into<String>, source: io::Error) -> KernelError {
        KernelError::Io { operation: operation.into(), source }
    }
}
