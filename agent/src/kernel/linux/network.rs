//! Devices, addresses and default route of the network namespace that the agent runs in.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use sluice_bpf::netlink::{Netlink, NetlinkError};
use sluice_pod::{device, random};

use crate::host::{HostState, LocalAddress, RouteUses};

/// Reads [`HostState`].
///
/// # Errors
/// A dump failed, or was interrupted each time.
pub fn host_state(netlink: &mut Netlink) -> Result<HostState, NetlinkError> {
    let links = device::links(netlink)?;
    let mut addresses = addresses(netlink)?;
    addresses.sort();
    addresses.dedup();
    let (default_route, route_uses) = read_routes(netlink)?;
    Ok(HostState {
        links,
        addresses,
        default_route,
        route_uses,
        ephemeral_ports: ephemeral_ports(),
        netns_cookie: netlink.netns_cookie().unwrap_or(0),
    })
}

/// A random key, not zero.
///
/// # Errors
/// /dev/urandom cannot be read.
pub fn random_key() -> io::Result<[u64; 2]> {
    let key = u128::from_ne_bytes(random::nonzero()?);
    Ok([key as u64, (key >> 64) as u64])
}

/// net.ipv4.ip_local_port_range, or its default if it cannot be read.
fn ephemeral_ports() -> (u16, u16) {
    const PATH: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    const DEFAULT: (u16, u16) = (32_768, 60_999);

    let text = std::fs::read_to_string(PATH).unwrap_or_default();
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(low)), Some(Ok(high))) => (low, high),
        _ => DEFAULT,
    }
}

fn addresses(netlink: &mut Netlink) -> Result<Vec<LocalAddress>, NetlinkError> {
    let query = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let responses = netlink.dump(query, "list the addresses")?;
    Ok(responses.iter().filter_map(local_address).collect())
}

/// Whether an address is of one link only: no packet that is routed has it. Each device of a pod has
/// one where IPv6 is on.
pub fn is_of_one_link(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}

/// The address in a response, unless it is a loopback or an IPv6 link-local address. On a device
/// with a peer, IFA_LOCAL is the node's address; IPv6 addresses have IFA_ADDRESS only.
fn local_address(response: &RouteNetlinkMessage) -> Option<LocalAddress> {
    let RouteNetlinkMessage::NewAddress(message) = response else { return None };
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })?;
    let flags = message.header.flags;
    let additional =
        message.header.prefix_len == 32 || flags.contains(AddressHeaderFlags::Secondary);
    let ifindex = message.header.index;
    let additional = additional && address.is_ipv4();
    (!address.is_loopback() && !is_of_one_link(&address)).then_some(LocalAddress {
        address,
        ifindex,
        additional,
    })
}

/// The device of the best default route, and the uses of devices by IPv4 routes.
fn read_routes(netlink: &mut Netlink) -> Result<(Option<u32>, RouteUses), NetlinkError> {
    let v4 = unicast_routes(netlink, AddressFamily::Inet)?;
    let mut uses = RouteUses::new();
    v4.iter().for_each(|route| add_uses(&mut uses, route));
    let default = match best_default(&v4) {
        None => best_default(&unicast_routes(netlink, AddressFamily::Inet6)?),
        found => found,
    };
    Ok((default, uses))
}

fn best_default(routes: &[RouteMessage]) -> Option<u32> {
    let defaults = routes.iter().filter(|m| {
        m.header.destination_prefix_length == 0 && m.header.table == RouteHeader::RT_TABLE_MAIN
    });
    defaults.filter_map(device_and_metric).min_by_key(|(_, metric)| *metric).map(|(d, _)| d)
}

/// Adds the devices of a route, of which each next hop has one.
fn add_uses(uses: &mut RouteUses, route: &RouteMessage) {
    let single = route.header.destination_prefix_length == 32;
    let mut add = |device: u32, gateway: bool| {
        let used = uses.entry(device).or_default();
        used.networks |= !single || gateway;
        used.addresses |= single;
    };
    let is_gateway =
        |a: &RouteAttribute| matches!(a, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
    let gateway = route.attributes.iter().any(is_gateway);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => add(*index, gateway),
            RouteAttribute::MultiPath(hops) => hops.iter().for_each(|hop| {
                add(hop.interface_index, hop.attributes.iter().any(is_gateway));
            }),
            _ => {}
        }
    }
}

fn device_and_metric(message: &RouteMessage) -> Option<(u32, u32)> {
    let (mut device, mut metric) = (None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    Some((device?, metric))
}

/// The routes of the main table, by one dump.
///
/// # Errors
/// The dump failed, or was interrupted each time.
pub fn main_table(
    netlink: &mut Netlink,
    family: AddressFamily,
) -> Result<Vec<RouteMessage>, NetlinkError> {
    let mut routes = all_routes(netlink, family)?;
    routes.retain(|m| m.header.table == RouteHeader::RT_TABLE_MAIN);
    Ok(routes)
}

/// The routes of all tables that lead to other hosts.
fn unicast_routes(
    netlink: &mut Netlink,
    family: AddressFamily,
) -> Result<Vec<RouteMessage>, NetlinkError> {
    let mut routes = all_routes(netlink, family)?;
    routes.retain(|m| m.header.kind == RouteType::Unicast);
    Ok(routes)
}

fn all_routes(
    netlink: &mut Netlink,
    family: AddressFamily,
) -> Result<Vec<RouteMessage>, NetlinkError> {
    let mut query = RouteMessage::default();
    query.header.address_family = family;
    let responses = netlink.dump(RouteNetlinkMessage::GetRoute(query), "list the routes")?;
    let routes = responses.into_iter().filter_map(|response| match response {
        RouteNetlinkMessage::NewRoute(message) => Some(message),
        _ => None,
    });
    Ok(routes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_address_precedes_the_peer_and_loopback_is_left_out() {
        let response = |attributes| {
            let mut m = AddressMessage::default();
            m.header.index = 4;
            m.attributes = attributes;
            local_address(&RouteNetlinkMessage::NewAddress(m)).map(|a| a.address.to_string())
        };
        let ip = |text: &str| text.parse().unwrap();
        let peer = AddressAttribute::Address(ip("10.0.0.2"));
        let found = response(vec![peer, AddressAttribute::Local(ip("10.0.0.1"))]);
        assert_eq!(found.as_deref(), Some("10.0.0.1"));
        assert_eq!(response(vec![AddressAttribute::Address(ip("fc00::1"))]).unwrap(), "fc00::1");
        assert_eq!(response(vec![AddressAttribute::Local(ip("127.0.0.1"))]), None);
        assert_eq!(response(vec![AddressAttribute::Address(ip("fe80::1"))]), None);
    }

    #[test]
    fn route_without_a_device_is_no_default_route() {
        let mut m = RouteMessage::default();
        m.attributes = vec![RouteAttribute::Priority(7)];
        assert_eq!(device_and_metric(&m), None);
        m.attributes.push(RouteAttribute::Oif(3));
        assert_eq!(device_and_metric(&m), Some((3, 7)));
    }
}
