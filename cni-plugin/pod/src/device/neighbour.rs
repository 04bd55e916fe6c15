//! Permanent IPv4 neighbour entries.

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteType;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use sluice_bpf::netlink::{Netlink, NetlinkError};

use super::Mac;

/// Adds or replaces a permanent neighbour entry.
///
/// # Errors
/// The kernel rejects the request.
pub(crate) fn add_neighbour(
    netlink: &mut Netlink,
    index: u32,
    address: Ipv4Addr,
    mac: Mac,
) -> Result<(), NetlinkError> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    let operation = format!("add neighbour entry for {address}");
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    netlink.change(RouteNetlinkMessage::NewNeighbour(message), flags, &operation)
}

/// Returns the hardware address of a permanent IPv4 neighbour entry, or `None` without such an
/// entry.
///
/// # Errors
/// The neighbour entries cannot be listed.
pub(crate) fn permanent_neighbour(
    netlink: &mut Netlink,
    index: u32,
    address: Ipv4Addr,
) -> Result<Option<Mac>, NetlinkError> {
    Ok(find_permanent(dump(netlink)?, index, address))
}

/// Lists the permanent IPv4 neighbour entries: device, address, hardware address.
///
/// # Errors
/// The neighbour entries cannot be listed.
pub(crate) fn permanent_neighbours(
    netlink: &mut Netlink,
) -> Result<Vec<(u32, Ipv4Addr, Mac)>, NetlinkError> {
    Ok(dump(netlink)?.into_iter().filter_map(permanent).collect())
}

fn dump(netlink: &mut Netlink) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
    let mut query = NeighbourMessage::default();
    query.header.family = AddressFamily::Inet;
    netlink.dump(RouteNetlinkMessage::GetNeighbour(query), "list neighbour entries")
}

/// Returns the hardware address of one permanent IPv4 neighbour entry, or `None`. One request
/// without a dump.
///
/// # Errors
/// The kernel rejects the request.
pub(crate) fn neighbour(
    netlink: &mut Netlink,
    index: u32,
    address: Ipv4Addr,
) -> Result<Option<Mac>, NetlinkError> {
    let mut query = NeighbourMessage::default();
    query.header.family = AddressFamily::Inet;
    query.header.ifindex = index;
    query.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet(address))];
    let operation = format!("read the neighbour entry for {address}");
    match netlink.get(RouteNetlinkMessage::GetNeighbour(query), &operation) {
        Err(e) if e.is_absent() => Ok(None),
        Err(e) => Err(e),
        Ok(responses) => Ok(find_permanent(responses, index, address)),
    }
}

fn find_permanent(
    responses: Vec<RouteNetlinkMessage>,
    index: u32,
    address: Ipv4Addr,
) -> Option<Mac> {
    let mut entries = responses.into_iter().filter_map(permanent);
    entries.find(|(i, a, _)| (*i, *a) == (index, address)).map(|(_, _, mac)| mac)
}

/// Device, address and hardware address of a permanent entry.
fn permanent(response: RouteNetlinkMessage) -> Option<(u32, Ipv4Addr, Mac)> {
    let RouteNetlinkMessage::NewNeighbour(message) = response else { return None };
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut dst, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => dst = Some(a),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok(),
            _ => {}
        }
    }
    Some((message.header.ifindex, dst?, mac?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);
    const MAC: Mac = [0x0a, 1, 2, 3, 4, 5];

    fn entry(index: u32, state: NeighbourState, address: Ipv4Addr) -> RouteNetlinkMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = index;
        message.header.state = state;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
            NeighbourAttribute::LinkLayerAddress(MAC.to_vec()),
        ];
        RouteNetlinkMessage::NewNeighbour(message)
    }

    #[test]
    fn only_a_permanent_entry_of_the_device_and_address_counts() {
        let permanent = NeighbourState::Permanent;
        let others = vec![
            entry(3, permanent, ADDRESS),
            entry(2, NeighbourState::Reachable, ADDRESS),
            entry(2, permanent, Ipv4Addr::new(10, 244, 1, 8)),
        ];
        assert_eq!(find_permanent(others.clone(), 2, ADDRESS), None);
        let all = [others, vec![entry(2, permanent, ADDRESS)]].concat();
        assert_eq!(find_permanent(all, 2, ADDRESS), Some(MAC));
    }
}
