//! tcx (kernel 6.6 and later): several programs per device, replaced atomically.

use std::os::fd::BorrowedFd;

use super::{AttachOutcome, Direction, attach_multi, detach_multi, programs_multi};
use crate::{AttachTarget, BpfError, ProgInfo};

/// Attaches `prog`; see [`super::attach_device_by`].
///
/// # Errors
/// EINVAL if the kernel lacks tcx; any other error of the kernel.
pub fn attach(
    ifindex: u32,
    direction: Direction,
    prog: BorrowedFd<'_>,
) -> Result<AttachOutcome, BpfError> {
    attach_multi(AttachTarget::Device(ifindex), direction.tcx(), prog)
}

/// Lists Sluice's programs on the device.
///
/// # Errors
/// EINVAL if the kernel lacks tcx; any other error of the kernel.
pub fn programs(ifindex: u32, direction: Direction) -> Result<Vec<ProgInfo>, BpfError> {
    programs_multi(AttachTarget::Device(ifindex), direction.tcx())
}

/// Detaches Sluice's programs named `name`; returns how many were attached.
///
/// # Errors
/// EINVAL if the kernel lacks tcx; any other error of the kernel.
pub fn detach(ifindex: u32, direction: Direction, name: &str) -> Result<usize, BpfError> {
    detach_multi(AttachTarget::Device(ifindex), direction.tcx(), name)
}
