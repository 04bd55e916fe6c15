//! Links, addresses, routes and neighbours, one netlink request each.
//!
//! Input: a socket in the namespace concerned and plain values. Output: plain values. Adding an
//! object that exists and deleting one that does not are successful, except for veth pairs.

mod address;
mod link;
mod neighbour;
mod route;

use sluice_bpf::netlink::{Netlink, NetlinkError};

pub(crate) use address::{add_address, addresses};
pub use link::{Link, LinkLayer, link_by_name, links};
pub(crate) use link::{
    Veth, create_veth, delete_link, ipv4_settings, link_by_index, set_up, wait_for_activation,
};
pub(crate) use neighbour::{add_neighbour, neighbour, permanent_neighbour, permanent_neighbours};
pub use route::Route;
pub(crate) use route::{add_route, route_to, routes};

/// A hardware address.
pub type Mac = [u8; 6];

/// The text form of a hardware address: `0a:00:1f:2e:3d:4c`.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Returns the MTU of the device of the best IPv4 default route, or `None` without such a route.
///
/// # Errors
/// Routes or device cannot be read.
pub fn uplink_mtu(netlink: &mut Netlink) -> Result<Option<u32>, NetlinkError> {
    let Some(route) = default_route(routes(netlink)?) else { return Ok(None) };
    Ok(link_by_index(netlink, route.oif)?.map(|link| link.mtu))
}

/// The default route that the kernel prefers: the one with the lowest metric.
fn default_route(routes: Vec<Route>) -> Option<Route> {
    routes.into_iter().filter(|route| route.prefix == 0).min_by_key(|route| route.priority)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_default_route_with_the_lowest_metric_is_the_uplink() {
        let route = |prefix, oif, priority| Route {
            dst: Ipv4Addr::UNSPECIFIED,
            prefix,
            gateway: None,
            oif,
            protocol: 3,
            priority,
        };
        let routes = vec![route(1, 1, 0), route(0, 2, 200), route(0, 3, 100), route(24, 4, 50)];
        assert_eq!(default_route(routes).map(|route| route.oif), Some(3));
        assert_eq!(default_route(vec![route(1, 1, 0)]), None);
    }
}
