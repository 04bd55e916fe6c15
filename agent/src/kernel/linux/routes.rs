//! Routes to the pods of other nodes: netlink messages for [`crate::kernel::Routes`].
//!
//! The agent owns the routes of the main table that carry [`ROUTE_PROTOCOL`], except those that
//! lead to a single pod's device: these belong to the CNI binary.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use sluice_bpf::netlink::{Netlink, NetlinkError};
use sluice_pod::device::ROUTE_PROTOCOL;

use super::network::main_table;
use crate::kernel::{Hop, Routes};

/// Metric of the unreachable route to this node's pod CIDR. The pods' own /32 routes are more
/// specific; a route that another program sets for the same range has a lower metric.
const UNREACHABLE_METRIC: u32 = 65_535;

/// The routes that the agent owns.
///
/// # Errors
/// A dump failed, or was interrupted each time.
pub fn owned(netlink: &mut Netlink) -> Result<Routes, NetlinkError> {
    let mut routes = Routes::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        routes.extend(main_table(netlink, family)?.iter().filter_map(owned_route));
    }
    Ok(routes)
}

/// Adds a route or replaces the one to the same destination and of the same kind.
///
/// # Errors
/// The kernel's refusal: the next hop is not on a connected network.
pub fn put(netlink: &mut Netlink, dst: &IpNet, hop: &Hop) -> Result<(), NetlinkError> {
    let request = RouteNetlinkMessage::NewRoute(message(dst, hop));
    netlink.change(request, NLM_F_CREATE | NLM_F_REPLACE, &format!("add route {dst}"))
}

/// Deletes a route; an absent one is not an error.
///
/// # Errors
/// The kernel's refusal.
pub fn delete(netlink: &mut Netlink, dst: &IpNet, hop: &Hop) -> Result<(), NetlinkError> {
    let request = RouteNetlinkMessage::DelRoute(message(dst, hop));
    match netlink.change(request, 0, &format!("delete route {dst}")) {
        Err(e) if e.is_absent() => Ok(()),
        other => other,
    }
}

/// Whether a route leads to a single pod.
pub fn leads_to_pod(m: &RouteMessage) -> bool {
    m.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL)
        && m.header.kind == RouteType::Unicast
        && !m.attributes.iter().any(|a| matches!(a, RouteAttribute::Gateway(_)))
}

/// Destination and hop of a route that the agent owns.
fn owned_route(m: &RouteMessage) -> Option<(IpNet, Hop)> {
    if m.header.protocol != RouteProtocol::from(ROUTE_PROTOCOL) || leads_to_pod(m) {
        return None;
    }
    let (mut dst, mut gateway) = (None, None);
    for a in &m.attributes {
        match a {
            RouteAttribute::Destination(a) => dst = ip(a),
            RouteAttribute::Gateway(a) => gateway = ip(a),
            _ => {}
        }
    }
    let dst = IpNet::new(dst?, m.header.destination_prefix_length).ok()?;
    match m.header.kind {
        RouteType::Unreachable => Some((dst, Hop::Unreachable)),
        _ => Some((dst, Hop::Via(gateway?))),
    }
}

fn message(dst: &IpNet, hop: &Hop) -> RouteMessage {
    let mut m = RouteMessage::default();
    m.header.address_family = family(&dst.addr());
    m.header.destination_prefix_length = dst.prefix_len();
    m.header.table = RouteHeader::RT_TABLE_MAIN;
    m.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    m.header.scope = RouteScope::Universe;
    m.header.kind = RouteType::Unicast;
    m.attributes.push(RouteAttribute::Destination(address(dst.network())));
    match hop {
        Hop::Via(gateway) => m.attributes.push(RouteAttribute::Gateway(address(*gateway))),
        Hop::Unreachable => {
            m.header.kind = RouteType::Unreachable;
            m.attributes.push(RouteAttribute::Priority(UNREACHABLE_METRIC));
        }
    }
    m
}

fn family(ip: &IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(a) => RouteAddress::Inet(a),
        IpAddr::V6(a) => RouteAddress::Inet6(a),
    }
}

fn ip(a: &RouteAddress) -> Option<IpAddr> {
    match a {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_reads_back_as_it_was_written() {
        for (dst, hop) in [
            ("10.244.1.0/24", Hop::Via("172.18.0.3".parse().unwrap())),
            ("fd00:1::/64", Hop::Via("fc00::3".parse().unwrap())),
            ("10.244.0.0/24", Hop::Unreachable),
        ] {
            let dst: IpNet = dst.parse().unwrap();
            assert_eq!(owned_route(&message(&dst, &hop)), Some((dst, hop)));
        }
    }

    #[test]
    fn routes_of_pods_and_of_other_programs_are_not_owned() {
        let dst = "10.244.0.7/32".parse().unwrap();
        let mut pod = message(&dst, &Hop::Via("172.18.0.3".parse().unwrap()));
        pod.attributes.retain(|a| !matches!(a, RouteAttribute::Gateway(_)));
        pod.attributes.push(RouteAttribute::Oif(9));
        assert!(leads_to_pod(&pod));
        assert_eq!(owned_route(&pod), None);
        let mut other = message(&dst, &Hop::Via("172.18.0.3".parse().unwrap()));
        other.header.protocol = RouteProtocol::Static;
        assert_eq!(owned_route(&other), None);
    }
}
