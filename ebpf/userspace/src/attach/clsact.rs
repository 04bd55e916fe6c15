//! clsact filters, for kernels before 6.6 and for pods (see [`super::Mechanism`] for the time that
//! tcx takes): one filter per program. A filter is Sluice's by its program, not by its place, so that
//! attaching again replaces it and filters of other owners stay.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{AttachError, AttachOutcome, Direction, own_program};
use crate::netlink::Netlink;
use crate::{ProgInfo, prog_info};

/// Priority of the filter where it is free. Lower ones run first; other software commonly starts
/// at 1.
const PRIORITY: u32 = 100;
/// Handle of the filter at its priority.
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

fn filter_header(ifindex: u32, direction: Direction, priority: u32, handle: TcHandle) -> TcHeader {
    let mut header = header(ifindex, direction);
    header.handle = handle;
    header.info = priority << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    header
}

/// A bpf filter and the program in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Filter {
    priority: u32,
    handle: TcHandle,
    program: u32,
}

/// The filters at one direction of a device.
#[derive(Debug)]
pub struct Filters {
    ifindex: u32,
    direction: Direction,
    /// Sluice's filters.
    own: Vec<(Filter, ProgInfo)>,
    /// Priorities in use, by filters of any kind and owner.
    used: BTreeSet<u32>,
}

impl Filters {
    /// Lists the filters; none on a device without a clsact qdisc.
    ///
    /// # Errors
    /// bpf(2) or netlink fails.
    pub fn read(
        netlink: &mut Netlink,
        ifindex: u32,
        direction: Direction,
    ) -> Result<Filters, AttachError> {
        let query = TcMessage::from_parts(header(ifindex, direction), Vec::new());
        let operation = format!("list the filters at {direction:?} of interface {ifindex}");
        let found = match netlink.dump(RouteNetlinkMessage::GetTrafficFilter(query), &operation) {
            Err(e) if matches!(e.errno(), libc::EINVAL | libc::ENOENT) => Vec::new(),
            other => other?,
        };
        let mut filters = Filters { ifindex, direction, own: Vec::new(), used: BTreeSet::new() };
        for message in found {
            let RouteNetlinkMessage::NewTrafficFilter(message) = message else { continue };
            filters.used.insert(priority(&message.header));
            if let Some(filter) = bpf_filter(message)
                && let Some((_, info)) = own_program(filter.program)?
            {
                filters.own.push((filter, info));
            }
        }
        Ok(filters)
    }

    /// Whether a filter has Sluice's program of this name.
    pub fn holds(&self, name: &str) -> bool {
        self.own.iter().any(|(_, info)| info.name == name)
    }

    /// Attaches `prog`: replaces the filter with a program of its name, or adds one at the first
    /// free priority from [`PRIORITY`] on. Filters of other owners stay.
    ///
    /// # Errors
    /// bpf(2) or netlink fails.
    pub fn attach(
        &self,
        netlink: &mut Netlink,
        prog: BorrowedFd<'_>,
    ) -> Result<AttachOutcome, AttachError> {
        let info = prog_info(prog)?;
        let current = self.own.iter().find(|(_, own)| own.name == info.name);
        if current.is_some_and(|(_, own)| own.id == info.id) {
            return Ok(AttachOutcome::Unchanged);
        }
        let (slot, flags, outcome) = match current {
            Some((filter, _)) => (
                filter_header(self.ifindex, self.direction, filter.priority, filter.handle),
                NLM_F_CREATE,
                AttachOutcome::Replaced,
            ),
            None => {
                add_clsact(netlink, self.ifindex)?;
                let priority = first_free(&self.used);
                let slot = filter_header(self.ifindex, self.direction, priority, HANDLE);
                (slot, NLM_F_CREATE | NLM_F_EXCL, AttachOutcome::Attached)
            }
        };
        let (direction, ifindex) = (self.direction, self.ifindex);
        let (request, operation) = new_filter(slot, ifindex, direction, prog, &info);
        match netlink.change(request, flags, &operation) {
            // A concurrent process (the agent, another ADD) attached the same program first.
            Err(e)
                if e.is_present()
                    && Filters::read(netlink, ifindex, direction)?.has_id(info.id) =>
            {
                Ok(AttachOutcome::Unchanged)
            }
            other => Ok(other.map(|()| outcome)?),
        }
    }

    fn has_id(&self, id: u32) -> bool {
        self.own.iter().any(|(_, info)| info.id == id)
    }
}

/// The request that puts `prog` into a filter, and its description.
fn new_filter(
    slot: TcHeader,
    ifindex: u32,
    direction: Direction,
    prog: BorrowedFd<'_>,
    info: &ProgInfo,
) -> (RouteNetlinkMessage, String) {
    let attributes = vec![
        TcAttribute::Kind("bpf".to_owned()),
        TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(prog.as_raw_fd() as u32)),
            TcOption::Bpf(TcFilterBpfOption::ProgName(info.name.clone())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]),
    ];
    let request = RouteNetlinkMessage::NewTrafficFilter(TcMessage::from_parts(slot, attributes));
    (request, format!("attach a filter to {direction:?} of interface {ifindex}"))
}

/// Attaches programs to a device without filters: one request for the qdisc and one for each program.
///
/// # Errors
/// bpf(2) or netlink fails; EEXIST if the device has a filter in that place.
pub(super) fn attach_first(
    netlink: &mut Netlink,
    ifindex: u32,
    programs: &[(Direction, BorrowedFd<'_>)],
) -> Result<(), AttachError> {
    add_clsact(netlink, ifindex)?;
    for (direction, prog) in programs {
        let slot = filter_header(ifindex, *direction, PRIORITY, HANDLE);
        let (request, operation) = new_filter(slot, ifindex, *direction, *prog, &prog_info(prog)?);
        netlink.change(request, NLM_F_CREATE | NLM_F_EXCL, &operation)?;
    }
    Ok(())
}

fn add_clsact(netlink: &mut Netlink, ifindex: u32) -> Result<(), AttachError> {
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
        Err(e) if !e.is_present() => Err(e.into()),
        _ => Ok(()),
    }
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
    Filters::read(netlink, ifindex, direction)?.attach(netlink, prog)
}

/// Returns Sluice's programs in filters of the device.
///
/// # Errors
/// bpf(2) or netlink fails.
pub fn programs(
    netlink: &mut Netlink,
    ifindex: u32,
    direction: Direction,
) -> Result<Vec<ProgInfo>, AttachError> {
    let filters = Filters::read(netlink, ifindex, direction)?;
    Ok(filters.own.into_iter().map(|(_, info)| info).collect())
}

/// Deletes Sluice's filters with a program named `name`; returns how many were deleted.
///
/// # Errors
/// bpf(2) or netlink fails.
pub fn detach(
    netlink: &mut Netlink,
    ifindex: u32,
    direction: Direction,
    name: &str,
) -> Result<usize, AttachError> {
    let mut deleted = 0;
    for (filter, _) in
        Filters::read(netlink, ifindex, direction)?.own.iter().filter(|(_, info)| info.name == name)
    {
        let header = filter_header(ifindex, direction, filter.priority, filter.handle);
        let message = TcMessage::from_parts(header, vec![TcAttribute::Kind("bpf".to_owned())]);
        let operation = format!("delete the filter from {direction:?} of interface {ifindex}");
        match netlink.change(RouteNetlinkMessage::DelTrafficFilter(message), 0, &operation) {
            Err(e) if e.is_absent() => {}
            Err(e) => return Err(e.into()),
            Ok(()) => deleted += 1,
        }
    }
    Ok(deleted)
}

/// The first free priority from [`PRIORITY`] on.
fn first_free(used: &BTreeSet<u32>) -> u32 {
    (PRIORITY..u32::from(u16::MAX)).find(|priority| !used.contains(priority)).unwrap_or(PRIORITY)
}

fn priority(header: &TcHeader) -> u32 {
    header.info >> 16
}

/// The filter in a message of a dump, if it is one of kind bpf. A dump has a further message for each
/// priority, without a program.
fn bpf_filter(message: TcMessage) -> Option<Filter> {
    let (priority, handle) = (priority(&message.header), message.header.handle);
    let program = message.attributes.into_iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.into_iter().find_map(|option| match option {
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(id),
            _ => None,
        }),
        _ => None,
    })?;
    Some(Filter { priority, handle, program })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_priority_handle_and_program() {
        let ingress = filter_header(12, Direction::Ingress, 100, HANDLE);
        assert_eq!(ingress.info, 100 << 16 | u32::from((libc::ETH_P_ALL as u16).to_be()));
        assert_eq!(ingress.parent, TcHandle { major: 0xffff, minor: 0xfff2 });
        let egress = filter_header(12, Direction::Egress, 100, HANDLE);
        assert_eq!(egress.parent.minor, 0xfff3);
        let id = TcOption::Bpf(TcFilterBpfOption::ProgId(42));
        let attributes = vec![TcAttribute::Options(vec![id])];
        let found = bpf_filter(TcMessage::from_parts(ingress.clone(), attributes));
        assert_eq!(found, Some(Filter { priority: 100, handle: HANDLE, program: 42 }));
        let of_the_priority = TcMessage::from_parts(ingress, Vec::new());
        assert_eq!(bpf_filter(of_the_priority), None);
    }

    #[test]
    fn a_new_filter_leaves_the_priorities_of_others_alone() {
        let free = |used: &[u32]| first_free(&used.iter().copied().collect());
        assert_eq!(free(&[]), 100);
        assert_eq!(free(&[1, 99, 101]), 100);
        assert_eq!(free(&[100, 101, 103]), 102);
    }
}
