//! Devices, addresses and default route of the network namespace that the agent runs in.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use sluice_bpf::netlink::{Netlink, NetlinkError};
use sluice_pod::{device, random};

use crate::host::{HostState, LocalAddress};

/// Reads [`HostState`].
///
/// # Errors
/// A dump failed, or was interrupted each time.
pub fn host_state(netlink: &mut Netlink) -> Result<HostState, NetlinkError> {
    let links = device::links(netlink)?;
    let mut addresses = addresses(netlink)?;
    addresses.sort();
    addresses.dedup();
    let default_route = default_route(netlink)?;
    Ok(HostState { links, addresses, default_route, ephemeral_ports: ephemeral_ports() })
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
    (!address.is_loopback() && !is_of_one_link(&address))
        .then_some(LocalAddress { address, ifindex: message.header.index })
}

fn default_route(netlink: &mut Netlink) -> Result<Option<u32>, NetlinkError> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let routes = main_table(netlink, family)?;
        let defaults = routes.iter().filter(|m| {
            m.header.destination_prefix_length == 0 && m.header.kind == RouteType::Unicast
        });
        let best = defaults.filter_map(device_and_metric).min_by_key(|(_, metric)| *metric);
        if let Some((device, _)) = best {
            return Ok(Some(device));
        }
    }
    Ok(None)
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

/// One dump of the main table.
///
/// # Errors
/// The dump failed, or was interrupted each time.
pub fn main_table(
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
    Ok(routes.filter(|m| m.header.table == RouteHeader::RT_TABLE_MAIN).collect())
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
