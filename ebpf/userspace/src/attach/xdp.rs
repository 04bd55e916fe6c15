//! The XDP program of a device, by netlink. A device has one, so that other software's is left alone.
//!
//! The kernel sends a notification about the device when its program changes.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};

use super::{AttachError, AttachOutcome, own_program};
use crate::netlink::Netlink;
use crate::{ProgInfo, prog_info};

/// `XDP_FLAGS_UPDATE_IF_NOEXIST`.
const IF_NONE: u32 = 1;
/// `XDP_FLAGS_SKB_MODE`.
const GENERIC: u32 = 2;
/// `XDP_FLAGS_DRV_MODE`.
const NATIVE: u32 = 4;
/// `XDP_FLAGS_REPLACE`.
const REPLACE: u32 = 16;

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum XdpMode {
    /// In the device's driver.
    Native,
    /// In the kernel's receive path, after memory for the packet was allocated.
    Generic,
}

impl XdpMode {
    fn flag(self) -> u32 {
        match self {
            XdpMode::Native => NATIVE,
            XdpMode::Generic => GENERIC,
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        })
    }
}

/// Result of [`attach_xdp`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XdpAttachment {
    /// The device has the program.
    Attached(AttachOutcome),
    /// The device has a program of other software, with this id.
    Foreign(u32),
    /// The kernel or the driver refuses it, for this reason.
    Refused(String),
}

/// A program of Sluice on a device.
struct Own {
    fd: OwnedFd,
    info: ProgInfo,
    mode: XdpMode,
}

/// What a device has.
enum Present {
    None,
    Own(Own),
    Foreign(u32),
}

/// Attaches a program to a device in this mode. An older one of Sluice is replaced in one step, unless
/// it has another mode.
///
/// # Errors
/// bpf(2) or netlink fails; ENODEV if the device does not exist.
pub fn attach_xdp(
    netlink: &mut Netlink,
    ifindex: u32,
    prog: impl AsFd,
    mode: XdpMode,
) -> Result<XdpAttachment, AttachError> {
    let prog = prog.as_fd();
    let (expected, outcome) = match present(netlink, ifindex)? {
        Present::Foreign(id) => return Ok(XdpAttachment::Foreign(id)),
        Present::Own(own) if own.mode == mode => {
            if own.info.id == prog_info(prog)?.id {
                return Ok(XdpAttachment::Attached(AttachOutcome::Unchanged));
            }
            (Some(own.fd), AttachOutcome::Replaced)
        }
        Present::Own(own) => {
            set(netlink, ifindex, own.mode, None, Some(own.fd.as_fd()))?;
            (None, AttachOutcome::Attached)
        }
        Present::None => (None, AttachOutcome::Attached),
    };
    match set(netlink, ifindex, mode, Some(prog), expected.as_ref().map(|fd| fd.as_fd())) {
        Ok(()) => Ok(XdpAttachment::Attached(outcome)),
        Err(AttachError::Netlink(e)) if e.errno() == libc::ENODEV => Err(e.into()),
        Err(AttachError::Netlink(e)) => Ok(match present(netlink, ifindex)? {
            // Another process was faster.
            Present::Foreign(id) => XdpAttachment::Foreign(id),
            Present::None | Present::Own(_) => XdpAttachment::Refused(e.source.to_string()),
        }),
        Err(e) => Err(e),
    }
}

/// The mode and the description of Sluice's program on a device.
///
/// # Errors
/// bpf(2) or netlink fails; ENODEV if the device does not exist.
pub fn xdp_program(
    netlink: &mut Netlink,
    ifindex: u32,
) -> Result<Option<(XdpMode, ProgInfo)>, AttachError> {
    match present(netlink, ifindex)? {
        Present::Own(own) => Ok(Some((own.mode, own.info))),
        Present::None | Present::Foreign(_) => Ok(None),
    }
}

/// Detaches Sluice's program from a device. Returns whether there was one.
///
/// # Errors
/// bpf(2) or netlink fails; ENODEV if the device does not exist.
pub fn detach_xdp(netlink: &mut Netlink, ifindex: u32) -> Result<bool, AttachError> {
    match present(netlink, ifindex)? {
        Present::Own(own) => {
            set(netlink, ifindex, own.mode, None, Some(own.fd.as_fd()))?;
            Ok(true)
        }
        Present::None | Present::Foreign(_) => Ok(false),
    }
}

fn present(netlink: &mut Netlink, ifindex: u32) -> Result<Present, AttachError> {
    let mut query = LinkMessage::default();
    query.header.index = ifindex;
    let operation = format!("read interface {ifindex}");
    let found = netlink.get(RouteNetlinkMessage::GetLink(query), &operation)?;
    let Some((mode, id)) = found.into_iter().find_map(|message| match message {
        RouteNetlinkMessage::NewLink(message) => program_of(&message),
        _ => None,
    }) else {
        return Ok(Present::None);
    };
    // Hardware is never Sluice's.
    let own = mode.map(|mode| Ok::<_, AttachError>((mode, own_program(id)?))).transpose()?;
    Ok(match own {
        Some((mode, Some((fd, info)))) => Present::Own(Own { fd, info, mode }),
        _ => Present::Foreign(id),
    })
}

/// Mode and id of a device's program; `None` as mode: in the hardware.
fn program_of(message: &LinkMessage) -> Option<(Option<XdpMode>, u32)> {
    let xdp = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => Some(xdp),
        _ => None,
    })?;
    xdp.iter().find_map(|attribute| match attribute {
        LinkXdp::DrvProgId(id) => Some((Some(XdpMode::Native), *id)),
        LinkXdp::SkbProgId(id) => Some((Some(XdpMode::Generic), *id)),
        LinkXdp::HwProgId(id) => Some((None, *id)),
        _ => None,
    })
}

/// Replaces the program `expected`, or none, by `prog`, or none.
fn set(
    netlink: &mut Netlink,
    ifindex: u32,
    mode: XdpMode,
    prog: Option<BorrowedFd<'_>>,
    expected: Option<BorrowedFd<'_>>,
) -> Result<(), AttachError> {
    let condition = if expected.is_some() { REPLACE } else { IF_NONE };
    let mut xdp = vec![
        LinkXdp::Fd(prog.map_or(-1, |prog| prog.as_raw_fd())),
        LinkXdp::Flags(mode.flag() | condition),
    ];
    xdp.extend(expected.map(|fd| LinkXdp::ExpectedFd(fd.as_raw_fd() as u32)));
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes = vec![LinkAttribute::Xdp(xdp)];
    let operation = format!("set the XDP program of interface {ifindex}");
    Ok(netlink.change(RouteNetlinkMessage::SetLink(message), 0, &operation)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_of_a_device_has_the_mode_of_its_attribute() {
        let message = |xdp| {
            let mut message = LinkMessage::default();
            message.attributes = vec![LinkAttribute::Mtu(1500), LinkAttribute::Xdp(xdp)];
            message
        };
        let found = |xdp| program_of(&message(xdp));
        let native = vec![LinkXdp::ProgId(7), LinkXdp::DrvProgId(7)];
        assert_eq!(found(native), Some((Some(XdpMode::Native), 7)));
        let generic = vec![LinkXdp::ProgId(8), LinkXdp::SkbProgId(8)];
        assert_eq!(found(generic), Some((Some(XdpMode::Generic), 8)));
        assert_eq!(found(vec![LinkXdp::HwProgId(9)]), Some((None, 9)));
        assert_eq!(found(vec![]), None);
        assert_eq!(program_of(&LinkMessage::default()), None);
    }
}
