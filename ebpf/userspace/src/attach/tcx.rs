//! tcx (kernel 6.6 and later): several programs at a device, replaced in one step.

use std::os::fd::BorrowedFd;

use super::{Direction, Done, attach_multi, detach_multi, programs_multi};
use crate::{BpfError, ProgInfo, Target};

/// Attaches `prog`; see [`super::attach_device_by`].
///
/// # Errors
/// EINVAL where the kernel has no tcx; else what it says.
pub fn attach(ifindex: u32, direction: Direction, prog: BorrowedFd<'_>) -> Result<Done, BpfError> {
    attach_multi(Target::Device(ifindex), direction.tcx(), prog)
}

/// Our programs on the device.
///
/// # Errors
/// EINVAL where the kernel has no tcx; else what it says.
pub fn programs(ifindex: u32, direction: Direction) -> Result<Vec<ProgInfo>, BpfError> {
    programs_multi(Target::Device(ifindex), direction.tcx())
}

/// Removes our programs with this name; tells how many there were.
///
/// # Errors
/// EINVAL where the kernel has no tcx; else what it says.
pub fn detach(ifindex: u32, direction: Direction, name: &str) -> Result<usize, BpfError> {
    detach_multi(Target::Device(ifindex), direction.tcx(), name)
}
