//! clsact filters, for kernels before 6.6 and for pods, which must not wait (see
//! [`super::Mechanism`]): one filter at a fixed priority and handle, so that attaching again
//! replaces it instead of adding another.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{AttachError, Direction, Done, is_ours};
use crate::netlink::Netlink;
use crate::{self as bpf, ProgInfo};

/// Priority of our filter; lower runs first, and others commonly start at 1.
const PRIORITY: u32 = 100;
/// Handle of our filter at that priority.
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
/// What the kernel says.
pub fn attach(
    netlink: &mut Netlink,
    ifindex: u32,
    direction: Direction,
    prog: BorrowedFd<'_>,
) -> Result<Done, AttachError> {
    let info = bpf::prog_info(prog)?;
    let standing = own_filter(netlink, ifindex, direction)?;
    if standing == Some(info.id) {
        return Ok(Done::Already);
    }
    let qdisc = TcHeader {
        index: ifindex as i32,
        handle: TcHandle { major: u16::MAX, minor: 0 },
        parent: TcHandle::CLSACT,
        ..TcHeader::default()
    };
    let clsact = TcMessage::from_parts(qdisc, vec![TcAttribute::Kind("clsact".to_owned())]);
    let doing = format!("add a clsact qdisc to interface {ifindex}");
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    match netlink.change(RouteNetlinkMessage::NewQueueDiscipline(clsact), flags, &doing) {
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
    let doing = format!("attach a filter to {direction:?} of interface {ifindex}");
    netlink.change(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE, &doing)?;
    Ok(if standing.is_some() { Done::Replaced } else { Done::Attached })
}

/// Our program on the device, if there is one.
///
/// # Errors
/// What the kernel says.
pub fn programs(
    netlink: &mut Netlink,
    ifindex: u32,
    direction: Direction,
) -> Result<Vec<ProgInfo>, AttachError> {
    let Some(id) = own_filter(netlink, ifindex, direction)? else { return Ok(Vec::new()) };
    let info = bpf::prog_info(bpf::prog_by_id(id)?)?;
    Ok(if is_ours(&info) { vec![info] } else { Vec::new() })
}

/// Removes our filter if its program has this name; tells how many that were.
///
/// # Errors
/// What the kernel says.
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
    let doing = format!("remove our filter from {direction:?} of interface {ifindex}");
    match netlink.change(RouteNetlinkMessage::DelTrafficFilter(message), 0, &doing) {
        Err(e) if e.is_absent() => Ok(0),
        Err(e) => Err(e.into()),
        Ok(()) => Ok(1),
    }
}

/// Program id of the filter at our priority and handle.
fn own_filter(
    netlink: &mut Netlink,
    ifindex: u32,
    direction: Direction,
) -> Result<Option<u32>, AttachError> {
    let query = TcMessage::from_parts(header(ifindex, direction), Vec::new());
    let doing = format!("list the filters at {direction:?} of interface {ifindex}");
    let filters = match netlink.dump(RouteNetlinkMessage::GetTrafficFilter(query), &doing) {
        // No qdisc to hold filters.
        Err(e) if matches!(e.errno(), libc::EINVAL | libc::ENOENT) => return Ok(None),
        other => other?,
    };
    Ok(filters.into_iter().find_map(|answer| {
        let RouteNetlinkMessage::NewTrafficFilter(filter) = answer else { return None };
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
    }))
}
