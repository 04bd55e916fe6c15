//! Devices, addresses and default route of the network namespace that the agent runs in.

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use sluice_bpf::netlink::{Netlink, NetlinkError};
use sluice_pod::device;
use sluice_pod::identity::HOST_PREFIX;

use super::routes;
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
    Ok(HostState { links, addresses, default_route: default_route(netlink)? })
}

fn addresses(netlink: &mut Netlink) -> Result<Vec<LocalAddress>, NetlinkError> {
    let query = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let responses = netlink.dump(query, "list the addresses")?;
    Ok(responses.iter().filter_map(local_address).collect())
}

/// The address in a response, unless it is a loopback address. On a device with a peer, IFA_LOCAL is
/// the node's address; IPv6 addresses have IFA_ADDRESS only.
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
    (!address.is_loopback()).then_some(LocalAddress { address, ifindex: message.header.index })
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

/// Whether a notification can change [`HostState`] or a route of the agent. Devices and routes of
/// single pods change often and affect neither.
pub fn affects_node(message: &RouteNetlinkMessage) -> bool {
    match message {
        RouteNetlinkMessage::NewLink(m) | RouteNetlinkMessage::DelLink(m) => {
            let veth = |a: &LinkAttribute| matches!(a, LinkAttribute::IfName(n) if n.starts_with(HOST_PREFIX));
            !m.attributes.iter().any(veth)
        }
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => true,
        RouteNetlinkMessage::DelRoute(m) => !routes::leads_to_pod(m),
        RouteNetlinkMessage::NewRoute(m) => m.header.destination_prefix_length == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkMessage;
    use netlink_packet_route::route::{RouteAddress, RouteProtocol};
    use sluice_pod::ROUTE_PROTOCOL;

    use super::*;

    #[test]
    fn veths_of_pods_do_not_affect_the_node() {
        let link = |name: &str| {
            let mut m = LinkMessage::default();
            m.attributes.push(LinkAttribute::IfName(name.to_owned()));
            RouteNetlinkMessage::NewLink(m)
        };
        assert!(affects_node(&link("eth0")));
        assert!(!affects_node(&link("slc0123456789a")));
    }

    #[test]
    fn routes_of_pods_do_not_affect_the_node() {
        let mut pod = RouteMessage::default();
        pod.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        pod.header.kind = RouteType::Unicast;
        pod.header.destination_prefix_length = 32;
        assert!(!affects_node(&RouteNetlinkMessage::DelRoute(pod.clone())));
        assert!(!affects_node(&RouteNetlinkMessage::NewRoute(pod.clone())));
        let mut other = pod;
        other.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet([172, 18, 0, 3].into())));
        assert!(affects_node(&RouteNetlinkMessage::DelRoute(other)));
    }

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
