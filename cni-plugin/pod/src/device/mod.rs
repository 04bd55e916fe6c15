//! Links, addresses, routes and neighbours, each as one request.
//!
//! What comes in is a socket (of the namespace in question) and plain values; what goes out are
//! plain values. Adding what is there already, and removing what is not, is no error.

mod address;
mod link;
mod neighbour;
mod route;

pub use address::{add_address, addresses};
pub use link::{Link, Veth, create_veth, delete_link, link_by_index, link_by_name, links, set_up};
pub use neighbour::{add_neighbour, permanent_neighbour};
pub use route::{Route, add_route, routes};

use sluice_bpf::netlink::{Netlink, NetlinkError};

/// Marks every route that Sluice makes (`ip route show proto 83`), so that it is known from
/// everybody else's.
pub const ROUTE_PROTOCOL: u8 = 83;

/// A hardware address.
pub type Mac = [u8; 6];

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
    Ok(link_by_index(netlink, best.oif)?.map(|link| link.mtu))
}
