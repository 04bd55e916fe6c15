//! Attachment of the pinned programs: uplinks, host ends of the pods' veth pairs, cgroup root.
//!
//! Every call can be repeated: a program that is already attached is left alone, and an older
//! version of it is replaced in one step.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use sluice_abi::{pin, program};
use sluice_bpf::attach::{
    AttachError, AttachOutcome, Direction, XdpAttachment, XdpMode, attach_cgroup, attach_device,
    attach_xdp, detach_cgroup, detach_device, detach_xdp, has_tcx_programs,
};
use sluice_bpf::netlink::Netlink;
use sluice_bpf::{self as bpf, AttachType, BpfError};
use sluice_pod::device::LinkLayer;

use crate::kernel::{KernelError, PodPrograms};

/// Programs of the host end of a pod's veth pair, with the direction seen from the host.
const POD: [(&str, Direction); 2] =
    [(program::FROM_POD, Direction::Ingress), (program::TO_POD, Direction::Egress)];

/// Programs of a device that packets leave by.
const UPLINK: [(&str, Direction); 2] =
    [(program::FROM_NETDEV, Direction::Ingress), (program::TO_NETDEV, Direction::Egress)];

/// The same for a device without an Ethernet header.
const UPLINK_WITHOUT_ETHERNET: [(&str, Direction); 2] =
    [(program::FROM_L3DEV, Direction::Ingress), (program::TO_L3DEV, Direction::Egress)];

/// A program that could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It could not be attached.
    #[error("attach {program} to {target}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Device or cgroup.
        target: String,
        /// The cause.
        #[source]
        source: AttachError,
    },
    /// It could not be detached.
    #[error("detach {program} from {target}")]
    Detach {
        /// Name of the program.
        program: &'static str,
        /// Device or cgroup.
        target: String,
        /// The cause.
        #[source]
        source: AttachError,
    },
}

/// The cgroup root cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("open cgroup {path}")]
pub struct CgroupError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Attaches the programs of uplinks to a device. Returns whether anything changed.
///
/// # Errors
/// A program is not pinned, or the kernel refuses the attachment.
pub fn attach_uplink(
    netlink: &mut Netlink,
    ifindex: u32,
    layer: LinkLayer,
) -> Result<bool, KernelError> {
    let programs = if layer == LinkLayer::Ip { UPLINK_WITHOUT_ETHERNET } else { UPLINK };
    attach(netlink, programs, ifindex)
}

/// Attaches the pod programs to the host end of a veth pair.
///
/// # Errors
/// A program is not pinned, or the kernel refuses the attachment.
pub fn attach_pod(netlink: &mut Netlink, ifindex: u32) -> Result<PodPrograms, KernelError> {
    let changed = attach(netlink, POD, ifindex)?;
    Ok(PodPrograms { changed, by_tcx: has_tcx_programs(ifindex)? })
}

fn attach(
    netlink: &mut Netlink,
    programs: [(&'static str, Direction); 2],
    ifindex: u32,
) -> Result<bool, KernelError> {
    let mut changed = false;
    for (program, direction) in programs {
        let prog = open(program)?;
        let done = attach_device(netlink, ifindex, direction, &prog).map_err(|source| {
            HookError::Attach { program, target: format!("interface {ifindex}"), source }
        })?;
        changed |= done != AttachOutcome::Unchanged;
    }
    Ok(changed)
}

/// Detaches the programs of uplinks from a device. Programs that are not attached, and a device that
/// does not exist, are not errors. Returns the number of detached programs.
///
/// # Errors
/// A program cannot be detached.
pub fn detach_uplink(netlink: &mut Netlink, ifindex: u32) -> Result<usize, KernelError> {
    Ok(detach_device_xdp(netlink, ifindex)?
        + detach(netlink, UPLINK, ifindex)?
        + detach(netlink, UPLINK_WITHOUT_ETHERNET, ifindex)?)
}

/// Attaches the XDP program to a device.
///
/// # Errors
/// It is not pinned, or the device cannot be read.
pub fn attach_device_xdp(
    netlink: &mut Netlink,
    ifindex: u32,
    mode: XdpMode,
) -> Result<XdpAttachment, KernelError> {
    let prog = open(program::XDP_NETDEV)?;
    attach_xdp(netlink, ifindex, &prog, mode).map_err(|source| {
        let target = format!("interface {ifindex}");
        HookError::Attach { program: program::XDP_NETDEV, target, source }.into()
    })
}

/// Detaches the XDP program from a device. A device without it, and one that does not exist, are not
/// errors. Returns the number of detached programs.
///
/// # Errors
/// It cannot be detached.
pub fn detach_device_xdp(netlink: &mut Netlink, ifindex: u32) -> Result<usize, KernelError> {
    match detach_xdp(netlink, ifindex) {
        Ok(detached) => Ok(usize::from(detached)),
        Err(source) if source.is_absent() => Ok(0),
        Err(source) => {
            let target = format!("interface {ifindex}");
            Err(HookError::Detach { program: program::XDP_NETDEV, target, source }.into())
        }
    }
}

/// Detaches all of Sluice's programs from a device, as [`detach_uplink`] does.
///
/// # Errors
/// A program cannot be detached.
pub fn detach_all(netlink: &mut Netlink, ifindex: u32) -> Result<usize, KernelError> {
    Ok(detach(netlink, POD, ifindex)? + detach_uplink(netlink, ifindex)?)
}

fn detach(
    netlink: &mut Netlink,
    programs: [(&'static str, Direction); 2],
    ifindex: u32,
) -> Result<usize, KernelError> {
    let mut detached = 0;
    for (program, direction) in programs {
        match detach_device(netlink, ifindex, direction, program) {
            Ok(count) => detached += count,
            Err(source) if source.is_absent() => {}
            Err(source) => {
                let target = format!("interface {ifindex}");
                return Err(HookError::Detach { program, target, source }.into());
            }
        }
    }
    Ok(detached)
}

/// Attaches the socket programs to a cgroup. Returns the number of changed hooks.
///
/// # Errors
/// The cgroup cannot be opened, a program is not pinned, or the kernel refuses the attachment:
/// EPERM if another program is attached exclusively.
pub fn attach_sockets(root: &Path) -> Result<usize, KernelError> {
    let cgroup = open_cgroup(root)?;
    let mut changed = 0;
    for program in program::SOCKET {
        let Some(hook) = AttachType::from_program_name(program) else { continue };
        let prog = open(program)?;
        let done = attach_cgroup(&cgroup, hook, &prog).map_err(|source| HookError::Attach {
            program,
            target: root.display().to_string(),
            source,
        })?;
        changed += usize::from(done != AttachOutcome::Unchanged);
    }
    Ok(changed)
}

/// Detaches the socket programs from a cgroup. Returns the number of detached programs.
///
/// # Errors
/// The cgroup cannot be opened, or a program cannot be detached: the first of these errors, after all
/// programs were tried.
pub fn detach_sockets(root: &Path) -> Result<usize, KernelError> {
    let cgroup = open_cgroup(root)?;
    let mut result = Ok(0);
    // The one that removes the records of sockets is attached first, and detached last.
    for program in program::SOCKET.into_iter().rev() {
        let Some(hook) = AttachType::from_program_name(program) else { continue };
        let detached = detach_cgroup(&cgroup, hook, program);
        result = result.and_then(|sum| match detached {
            Ok(detached) => Ok(sum + detached),
            Err(source) => {
                let target = root.display().to_string();
                Err(HookError::Detach { program, target, source }.into())
            }
        });
    }
    result
}

fn open_cgroup(root: &Path) -> Result<File, CgroupError> {
    File::open(root).map_err(|source| CgroupError { path: root.to_owned(), source })
}

fn open(name: &str) -> Result<OwnedFd, BpfError> {
    bpf::obj_get(&Path::new(pin::PROGRAMS).join(name))
}
