//! Links, addresses, routes and neighbours, each as one request.
//!
//! What comes in is a socket (of the namespace in question) and plain values; what goes out are
//! plain values. Adding what is there already, and removing what is not, is no error.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{Netlink, NetlinkError};

/// Marks every route that Sluice makes (`ip route show proto 83`), so that it is known from
/// everybody else's.
pub const ROUTE_PROTOCOL: u8 = 83;

/// A hardware address.
pub type Mac = [u8; 6];

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address, if it has one of six bytes.
    pub mac: Option<Mac>,
    /// Alias (`ip link show`), if one is set.
    pub alias: Option<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
}

/// An IPv4 route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination network.
    pub dst: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
    /// Next hop; `None`: on the link.
    pub gateway: Option<Ipv4Addr>,
    /// Interface index.
    pub oif: u32,
    /// Number of the routing protocol.
    pub protocol: u8,
    /// Lower wins.
    pub priority: u32,
}

/// A veth pair to be made, both ends complete from their first instant.
#[derive(Clone, Debug)]
pub struct Veth<'a> {
    /// Name of the host's end.
    pub host_name: &'a str,
    /// Hardware address of the host's end.
    pub host_mac: Mac,
    /// Name of the pod's end.
    pub pod_name: &'a str,
    /// Hardware address of the pod's end.
    pub pod_mac: Mac,
    /// The pod's network namespace, in which its end is born.
    pub pod_netns: BorrowedFd<'a>,
    /// MTU of both ends, bytes.
    pub mtu: u32,
}

fn link_from(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        alias: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().ok(),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            _ => {}
        }
    }
    link
}

fn links_in(answers: Vec<RouteNetlinkMessage>) -> Vec<Link> {
    answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(link_from(message)),
            _ => None,
        })
        .collect()
}

/// Every device.
///
/// # Errors
/// The kernel's refusal.
pub fn links(netlink: &mut Netlink) -> Result<Vec<Link>, NetlinkError> {
    let query = RouteNetlinkMessage::GetLink(LinkMessage::default());
    Ok(links_in(netlink.dump(query, "list the network devices")?))
}

/// The device with this name, if there is one.
///
/// # Errors
/// The kernel's refusal.
pub fn link_by_name(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let doing = format!("look for network device {name}");
    match netlink.get(RouteNetlinkMessage::GetLink(message), &doing) {
        Err(e) if e.is_absent() => Ok(None),
        Err(e) => Err(e),
        Ok(answers) => Ok(links_in(answers).pop()),
    }
}

/// Makes a veth pair.
///
/// # Errors
/// EEXIST if either name is taken.
pub fn create_veth(netlink: &mut Netlink, veth: &Veth<'_>) -> Result<(), NetlinkError> {
    let end = |name: &str, mac: Mac| {
        vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(veth.mtu),
        ]
    };
    let mut peer = LinkMessage::default();
    peer.attributes = end(veth.pod_name, veth.pod_mac);
    peer.attributes.push(LinkAttribute::NetNsFd(veth.pod_netns.as_raw_fd()));
    let mut message = LinkMessage::default();
    message.attributes = end(veth.host_name, veth.host_mac);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    let doing = format!("create veth pair {} - {}", veth.host_name, veth.pod_name);
    netlink.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, &doing)
}

/// Sets a device up, and its alias if one is given.
///
/// # Errors
/// The kernel's refusal.
pub fn set_up(netlink: &mut Netlink, index: u32, alias: Option<&str>) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    if let Some(alias) = alias {
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
    }
    let doing = format!("set network device {index} up");
    netlink.change(RouteNetlinkMessage::SetLink(message), 0, &doing)
}

/// Removes the device with this name; tells whether it was there.
///
/// # Errors
/// The kernel's refusal.
pub fn delete_link(netlink: &mut Netlink, name: &str) -> Result<bool, NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let doing = format!("delete network device {name}");
    match netlink.change(RouteNetlinkMessage::DelLink(message), 0, &doing) {
        Err(e) if e.is_absent() => Ok(false),
        Err(e) => Err(e),
        Ok(()) => Ok(true),
    }
}

/// Gives a device an address with prefix length 32.
///
/// # Errors
/// The kernel's refusal.
pub fn add_address(
    netlink: &mut Netlink,
    index: u32,
    address: Ipv4Addr,
) -> Result<(), NetlinkError> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = index;
    message.attributes =
        vec![AddressAttribute::Local(address.into()), AddressAttribute::Address(address.into())];
    let doing = format!("add address {address}/32");
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    netlink.change(RouteNetlinkMessage::NewAddress(message), flags, &doing)
}

/// The IPv4 addresses of a device with their prefix lengths.
///
/// # Errors
/// The kernel's refusal.
pub fn addresses(netlink: &mut Netlink, index: u32) -> Result<Vec<(Ipv4Addr, u8)>, NetlinkError> {
    let mut query = AddressMessage::default();
    query.header.family = AddressFamily::Inet;
    let answers = netlink.dump(RouteNetlinkMessage::GetAddress(query), "list the addresses")?;
    let mut found = Vec::new();
    for answer in answers {
        let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
        if message.header.index != index {
            continue;
        }
        for attribute in message.attributes {
            if let AddressAttribute::Local(std::net::IpAddr::V4(address)) = attribute {
                found.push((address, message.header.prefix_len));
            }
        }
    }
    Ok(found)
}

/// Makes a route of the main table (`protocol` and all), or makes one like it so.
///
/// # Errors
/// The kernel's refusal.
pub fn add_route(netlink: &mut Netlink, route: &Route) -> Result<(), NetlinkError> {
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
    let doing = format!("add route {}/{}", route.dst, route.prefix);
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    netlink.change(RouteNetlinkMessage::NewRoute(message), flags, &doing)
}

/// The IPv4 unicast routes of the main table that lead to one device each.
///
/// # Errors
/// The kernel's refusal.
pub fn routes(netlink: &mut Netlink) -> Result<Vec<Route>, NetlinkError> {
    let mut query = RouteMessage::default();
    query.header.address_family = AddressFamily::Inet;
    let answers = netlink.dump(RouteNetlinkMessage::GetRoute(query), "list the routes")?;
    let mut found = Vec::new();
    for answer in answers {
        let RouteNetlinkMessage::NewRoute(message) = answer else { continue };
        let header = &message.header;
        if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
            continue;
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
                RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => {
                    route.gateway = Some(gateway);
                }
                RouteAttribute::Oif(oif) => route.oif = oif,
                RouteAttribute::Priority(priority) => route.priority = priority,
                _ => {}
            }
        }
        if route.oif != 0 {
            found.push(route);
        }
    }
    Ok(found)
}

/// Makes a permanent neighbour entry.
///
/// # Errors
/// The kernel's refusal.
pub fn add_neighbour(
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
    let doing = format!("add neighbour {address}");
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    netlink.change(RouteNetlinkMessage::NewNeighbour(message), flags, &doing)
}

/// The hardware address of a permanent IPv4 neighbour entry, if there is one.
///
/// # Errors
/// The kernel's refusal.
pub fn permanent_neighbour(
    netlink: &mut Netlink,
    index: u32,
    address: Ipv4Addr,
) -> Result<Option<Mac>, NetlinkError> {
    let mut query = NeighbourMessage::default();
    query.header.family = AddressFamily::Inet;
    let answers = netlink.dump(RouteNetlinkMessage::GetNeighbour(query), "list the neighbours")?;
    for answer in answers {
        let RouteNetlinkMessage::NewNeighbour(message) = answer else { continue };
        let header = &message.header;
        if header.ifindex != index || header.state != NeighbourState::Permanent {
            continue;
        }
        let (mut dst, mut mac) = (None, None);
        for attribute in message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => dst = Some(a),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok(),
                _ => {}
            }
        }
        if dst == Some(address) {
            return Ok(mac);
        }
    }
    Ok(None)
}

/// MTU of the device that the IPv4 default route leads to, if there is one.
///
/// # Errors
/// The kernel's refusal.
pub fn uplink_mtu(netlink: &mut Netlink) -> Result<Option<u32>, NetlinkError> {
    let best = routes(netlink)?
        .into_iter()
        .filter(|route| route.prefix == 0)
        .min_by_key(|route| route.priority);
    let Some(best) = best else { return Ok(None) };
    Ok(links(netlink)?.into_iter().find(|link| link.index == best.oif).map(|link| link.mtu))
}
