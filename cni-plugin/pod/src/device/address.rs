//! IPv4 addresses of devices.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use sluice_bpf::netlink::{Netlink, NetlinkError};

/// Adds an address with prefix length 32 to a device.
///
/// # Errors
/// The kernel rejects the request.
pub(crate) fn add_address(
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
    let operation = format!("add address {address}/32");
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    netlink.change(RouteNetlinkMessage::NewAddress(message), flags, &operation)
}

/// Lists the IPv4 addresses of a device with their prefix lengths.
///
/// # Errors
/// The addresses cannot be listed.
pub(crate) fn addresses(
    netlink: &mut Netlink,
    index: u32,
) -> Result<Vec<(Ipv4Addr, u8)>, NetlinkError> {
    let mut query = AddressMessage::default();
    query.header.family = AddressFamily::Inet;
    let responses = netlink.dump(RouteNetlinkMessage::GetAddress(query), "list addresses")?;
    let mut found = Vec::new();
    for response in responses {
        let RouteNetlinkMessage::NewAddress(message) = response else { continue };
        if message.header.index != index {
            continue;
        }
        for attribute in message.attributes {
            if let AddressAttribute::Local(IpAddr::V4(address)) = attribute {
                found.push((address, message.header.prefix_len));
            }
        }
    }
    Ok(found)
}
