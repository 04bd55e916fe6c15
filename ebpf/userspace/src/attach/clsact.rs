//! clsact filters, for kernels before 6.6 and for pods (see [`super::Mechanism`] for the time that
//! tcx takes): one filter at a fixed priority and handle, so that attaching again replaces it.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{AttachError, AttachOutcome, Direction, is_ours};
use crate::netlink::Netlink;
use crate::{ProgInfo, prog_by_id, prog_info};

/// Priority of the filter. Lower ones run first; other software commonly starts at 1.
const PRIORITY: u32 = 100;
/// Handle of the filter at that priority.
const HANDLE: TcHandle = TcHandle { major: 0, minor: 1 };

fn header(ifindex: u32, direction: Direction) -> TcHeader {
    let minor = match direction {
        Direction::Ingress => TcHandle::MIN_INGRESS,
        Direction::Egress => TcHandle::MIN_EGRESS,
    };
    TcHeader {
        family: AddressFamily::Unspec,
        index: ifindex as i32,
        parent: TcHandle { major: u16::MAX, minor },
        ..TcHeader::default()
    }
}

fn filter(ifindex: u32, direction: Direction) -> TcHeader {
    let mut header = header(ifindex, direction);
    header.handle = HANDLE;
    header.info = PRIORITY << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    header
}

/// Attaches `prog`; see [`super::attach_device`].
///
/// # Errors
/// bpf(2) or netlink fails.
pub fn attach(
    netlink: &mut Netlink,
    ifindex: u32,
    direction: Direction,
    prog: BorrowedFd<'_>,
) -> Result<AttachOutcome, AttachError> {
    let info = prog_info(prog)?;
    let current = own_filter(netlink, ifindex, direction)?;
    if current == Some(info.id) {
        return Ok(AttachOutcome::Unchanged);
    }
    let qdisc = TcHeader {
        index: ifindex as i32,
        handle: TcHandle { major: u16::MAX, minor: 0 },
        parent: TcHandle::CLSACT,
        ..TcHeader::default()
    };
    let clsact = TcMessage::from_parts(qdisc, vec![TcAttribute::Kind("clsact".to_owned())]);
    let operation = format!("add a clsact qdisc to interface {ifindex}");
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    match netlink.change(RouteNetlinkMessage::NewQueueDiscipline(clsact), flags, &operation) {
        Err(e) if !e.is_present() => return Err(e.into()),
        _ => {}
    }
    let message = TcMessage::from_parts(
        filter(ifindex, direction),
        vec![
            TcAttribute::Kind("bpf".to_owned()),
            TcAttribute::Options(vec![
                TcOption::Bpf(TcFilterBpfOption::ProgFd(prog.as_raw_fd() as u32)),
                TcOption::Bpf(TcFilterBpfOption::ProgName(info.name)),
                TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            ]),
        ],
    );
    let operation = format!("attach a filter to {direction:?} of interface {ifindex}");
    netlink.change(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE, &operation)?;
    Ok(match current {
        Some(_) => AttachOutcome::Replaced,
        None => AttachOutcome::Attached,
    })
}

/// Returns Sluice's program on the device, if one is attached.
///
/// # Errors
/// bpf(2) or netlink fails.
pub fn programs(
    netlink: &mut Netlink,
    ifindex: u32,
    direction: Direction,
) -> Result<Vec<ProgInfo>, AttachError> {
    let Some(id) = own_filter(netlink, ifindex, direction)? else { return Ok(Vec::new()) };
    let info = prog_info(prog_by_id(id)?)?;
    Ok(if is_ours(&info) { vec![info] } else { Vec::new() })
}

/// Deletes Sluice's filter if its program is named `name`; returns how many were deleted.
///
/// # Errors
/// bpf(2) or netlink fails.
pub fn detach(
    netlink: &mut Netlink,
    ifindex: u32,
    direction: Direction,
    name: &str,
) -> Result<usize, AttachError> {
    if programs(netlink, ifindex, direction)?.iter().all(|info| info.name != name) {
        return Ok(0);
    }
    let message = TcMessage::from_parts(
        filter(ifindex, direction),
        vec![TcAttribute::Kind("bpf".to_owned())],
    );
    let operation = format!("delete the filter from {direction:?} of interface {ifindex}");
    match netlink.change(RouteNetlinkMessage::DelTrafficFilter(message), 0, &operation) {
        Err(e) if e.is_absent() => Ok(0),
        Err(e) => Err(e.into()),
        Ok(()) => Ok(1),
    }
}

/// Id of the program in the filter at [`PRIORITY`] and [`HANDLE`].
fn own_filter(
    netlink: &mut Netlink,
    ifindex: u32,
    direction: Direction,
) -> Result<Option<u32>, AttachError> {
    let query = TcMessage::from_parts(header(ifindex, direction), Vec::new());
    let operation = format!("list the filters at {direction:?} of interface {ifindex}");
    let filters = match netlink.dump(RouteNetlinkMessage::GetTrafficFilter(query), &operation) {
        // The device has no clsact qdisc.
        Err(e) if matches!(e.errno(), libc::EINVAL | libc::ENOENT) => return Ok(None),
        other => other?,
    };
    Ok(filters.into_iter().find_map(program_id))
}

/// Id of the program in a filter, if the filter is the one at [`PRIORITY`] and [`HANDLE`].
fn program_id(response: RouteNetlinkMessage) -> Option<u32> {
    let RouteNetlinkMessage::NewTrafficFilter(filter) = response else { return None };
    if filter.header.info >> 16 != PRIORITY || filter.header.handle != HANDLE {
        return None;
    }
    filter.attributes.into_iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.into_iter().find_map(|option| match option {
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(id),
            _ => None,
        }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_known_by_priority_and_handle() {
        let response = |header: TcHeader| {
            let id = TcOption::Bpf(TcFilterBpfOption::ProgId(42));
            let attributes = vec![TcAttribute::Options(vec![id])];
            RouteNetlinkMessage::NewTrafficFilter(TcMessage::from_parts(header, attributes))
        };
        let own = filter(12, Direction::Ingress);
        assert_eq!(own.info, 100 << 16 | u32::from((libc::ETH_P_ALL as u16).to_be()));
        assert_eq!(own.parent, TcHandle { major: 0xffff, minor: 0xfff2 });
        assert_eq!(filter(12, Direction::Egress).parent.minor, 0xfff3);
        assert_eq!(program_id(response(own.clone())), Some(42));
        let mut other = own.clone();
        other.info = 1 << 16;
        assert_eq!(program_id(response(other)), None);
        let mut other = own;
        other.handle = TcHandle { major: 0, minor: 2 };
        assert_eq!(program_id(response(other)), None);
    }
}
