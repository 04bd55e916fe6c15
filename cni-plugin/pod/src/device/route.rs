//! IPv4 routes of the main table.

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use sluice_bpf::netlink::{Netlink, NetlinkError};

/// An IPv4 route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination network.
    pub dst: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
    /// Next hop; `None` for a destination on the link.
    pub gateway: Option<Ipv4Addr>,
    /// Interface index.
    pub oif: u32,
    /// Routing protocol number.
    pub protocol: u8,
    /// Metric; the kernel prefers the lowest.
    pub priority: u32,
}

/// Adds a route to the main table, or replaces one with the same destination and metric.
///
/// # Errors
/// The kernel rejects the request.
pub(crate) fn add_route(netlink: &mut Netlink, route: &Route) -> Result<(), NetlinkError> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = route.prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(route.protocol);
    message.header.kind = RouteType::Unicast;
    message.header.scope = match route.gateway {
        Some(_) => RouteScope::Universe,
        None => RouteScope::Link,
    };
    if route.prefix > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(route.dst)));
    }
    if let Some(gateway) = route.gateway {
        message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
    }
    message.attributes.push(RouteAttribute::Oif(route.oif));
    if route.priority > 0 {
        message.attributes.push(RouteAttribute::Priority(route.priority));
    }
    let operation = format!("add route {}/{}", route.dst, route.prefix);
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    netlink.change(RouteNetlinkMessage::NewRoute(message), flags, &operation)
}

/// Lists the IPv4 unicast routes of the main table that have one device each (no multipath routes).
///
/// # Errors
/// The routes cannot be listed.
pub(crate) fn routes(netlink: &mut Netlink) -> Result<Vec<Route>, NetlinkError> {
    let mut query = RouteMessage::default();
    query.header.address_family = AddressFamily::Inet;
    let responses = netlink.dump(RouteNetlinkMessage::GetRoute(query), "list routes")?;
    Ok(responses.into_iter().filter_map(route_from).collect())
}

/// Returns the route of the main table that the kernel chooses for a destination, or `None`.
///
/// # Errors
/// The kernel rejects the request.
pub(crate) fn route_to(
    netlink: &mut Netlink,
    dst: Ipv4Addr,
) -> Result<Option<Route>, NetlinkError> {
    let mut query = RouteMessage::default();
    query.header.address_family = AddressFamily::Inet;
    query.header.destination_prefix_length = 32;
    query.header.flags = RouteFlags::FibMatch;
    query.attributes = vec![RouteAttribute::Destination(RouteAddress::Inet(dst))];
    let operation = format!("read the route to {dst}");
    match netlink.get(RouteNetlinkMessage::GetRoute(query), &operation) {
        // An unreachable route, or none.
        Err(e) if e.is_absent() || matches!(e.errno(), libc::EHOSTUNREACH | libc::ENETUNREACH) => {
            Ok(None)
        }
        Err(e) => Err(e),
        Ok(responses) => Ok(responses.into_iter().find_map(route_from)),
    }
}

fn route_from(response: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = response else { return None };
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let mut route = Route {
        dst: Ipv4Addr::UNSPECIFIED,
        prefix: header.destination_prefix_length,
        gateway: None,
        oif: 0,
        protocol: header.protocol.into(),
        priority: 0,
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(dst)) => route.dst = dst,
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => route.gateway = Some(gateway),
            RouteAttribute::Oif(oif) => route.oif = oif,
            RouteAttribute::Priority(priority) => route.priority = priority,
            _ => {}
        }
    }
    (route.oif != 0).then_some(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(route: &Route) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = route.prefix;
        message.header.protocol = route.protocol.into();
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet(route.dst)),
            RouteAttribute::Oif(route.oif),
            RouteAttribute::Priority(route.priority),
        ];
        message
    }

    #[test]
    fn unicast_routes_of_the_main_table_with_a_device_are_listed() {
        let dst = Ipv4Addr::new(10, 244, 1, 7);
        let route = Route { dst, prefix: 32, gateway: None, oif: 12, protocol: 83, priority: 5 };
        let parse = |message| route_from(RouteNetlinkMessage::NewRoute(message));
        assert_eq!(parse(message(&route)), Some(route));
        let mut other = message(&route);
        other.header.table = 255;
        assert_eq!(parse(other), None);
        let mut other = message(&route);
        other.header.kind = RouteType::Unreachable;
        assert_eq!(parse(other), None);
        assert_eq!(parse(message(&Route { oif: 0, ..route })), None, "several next hops");
        let gateway = Ipv4Addr::new(172, 18, 0, 1);
        let mut via = message(&route);
        via.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        assert_eq!(parse(via).and_then(|route| route.gateway), Some(gateway));
    }
}
