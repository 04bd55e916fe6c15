//! The node's own network, as far as Sluice touches it: which device leads to the other nodes,
//! which addresses are the node's, routes to the other nodes' pods, forwarding.
//!
//! In: netlink. Out: [`Facts`] for the tables, routes in the kernel. Reads and writes only the
//! network namespace it runs in, and of the routes only those that carry [`routes::PROTOCOL`].

pub mod monitor;
pub mod routes;
pub mod sysctl;
mod uplink;

use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

pub use uplink::{Uplink, UplinkChoice};

/// What went wrong on netlink.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A request was refused.
    #[error("netlink: {doing}")]
    Netlink {
        /// What was being done.
        doing: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// No socket.
    #[error("netlink socket")]
    Socket(#[source] std::io::Error),
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// The loopback device.
    pub loopback: bool,
}

/// An address of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// The device that has it.
    pub ifindex: u32,
}

/// What is true of the node now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Every device.
    pub links: Vec<Link>,
    /// Every address but the loopback ranges, sorted.
    pub addresses: Vec<LocalAddress>,
    /// Device of the IPv4 default route with the lowest metric, else of the IPv6 one.
    pub default_route: Option<u32>,
}

/// A connection to the kernel's routing tables. Its task lives as long as the runtime.
#[derive(Clone)]
pub struct Host {
    handle: rtnetlink::Handle,
}

impl Host {
    /// Opens the connection; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If no netlink socket can be had.
    pub fn open() -> Result<Host, HostError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(HostError::Socket)?;
        tokio::spawn(connection);
        Ok(Host { handle })
    }

    /// Reads [`Facts`].
    ///
    /// # Errors
    /// When one of the dumps fails.
    pub async fn facts(&self) -> Result<Facts, HostError> {
        let links = self.links().await?;
        let mut addresses = self.addresses().await?;
        addresses.sort();
        addresses.dedup();
        let default_route = self.default_route().await?;
        Ok(Facts { links, addresses, default_route })
    }

    async fn links(&self) -> Result<Vec<Link>, HostError> {
        let mut stream = self.handle.link().get().execute();
        let mut links = Vec::new();
        while let Some(m) = stream.try_next().await.map_err(failed("list links"))? {
            let mut link = Link {
                index: m.header.index,
                name: String::new(),
                mtu: 0,
                up: m.header.flags.contains(LinkFlags::Up),
                loopback: m.header.flags.contains(LinkFlags::Loopback),
            };
            for a in m.attributes {
                match a {
                    LinkAttribute::IfName(name) => link.name = name,
                    LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                    _ => {}
                }
            }
            links.push(link);
        }
        Ok(links)
    }

    async fn addresses(&self) -> Result<Vec<LocalAddress>, HostError> {
        let mut stream = self.handle.address().get().execute();
        let mut all = Vec::new();
        while let Some(m) = stream.try_next().await.map_err(failed("list addresses"))? {
            // IFA_LOCAL is ours where a device has a peer; IPv6 knows IFA_ADDRESS alone.
            let local = m.attributes.iter().find_map(|a| match a {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            });
            let address = local.or_else(|| {
                m.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Address(ip) => Some(*ip),
                    _ => None,
                })
            });
            if let Some(address) = address.filter(|a| !a.is_loopback()) {
                all.push(LocalAddress { address, ifindex: m.header.index });
            }
        }
        Ok(all)
    }

    async fn default_route(&self) -> Result<Option<u32>, HostError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut best: Option<(u32, u32)> = None;
            for m in self.routes(family).await? {
                if m.header.destination_prefix_length != 0 || m.header.kind != RouteType::Unicast {
                    continue;
                }
                let (mut device, mut metric) = (None, 0);
                for a in &m.attributes {
                    match a {
                        RouteAttribute::Oif(index) => device = Some(*index),
                        RouteAttribute::Priority(p) => metric = *p,
                        _ => {}
                    }
                }
                if let Some(device) = device
                    && best.is_none_or(|(m, _)| metric < m)
                {
                    best = Some((metric, device));
                }
            }
            if let Some((_, device)) = best {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    /// One dump of the main table.
    async fn routes(&self, family: AddressFamily) -> Result<Vec<RouteMessage>, HostError> {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let mut stream = Box::pin(self.handle.route().get(request).execute());
        let mut all = Vec::new();
        while let Some(m) = stream.try_next().await.map_err(failed("list routes"))? {
            if m.header.table == netlink_packet_route::route::RouteHeader::RT_TABLE_MAIN {
                all.push(m);
            }
        }
        Ok(all)
    }
}

/// Builds a [`HostError::Netlink`].
fn failed(doing: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> HostError {
    let doing = doing.into();
    move |source| HostError::Netlink { doing, source }
}

/// Whether a multicast message can change [`Facts`] or our routes. Devices of pods come and go
/// all the time and change neither.
fn concerns_the_node(message: &RouteNetlinkMessage) -> bool {
    match message {
        RouteNetlinkMessage::NewLink(m) | RouteNetlinkMessage::DelLink(m) => {
            !m.attributes.iter().any(|a| {
                matches!(a, LinkAttribute::IfName(n) if n.starts_with(crate::endpoints::VETH_PREFIX))
            })
        }
        RouteNetlinkMessage::NewAddress(_)
        | RouteNetlinkMessage::DelAddress(_) => true,
        RouteNetlinkMessage::DelRoute(m) => !routes::belongs_to_a_pod(m),
        RouteNetlinkMessage::NewRoute(m) => m.header.destination_prefix_length == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    #[test]
    fn devices_of_pods_concern_nobody_but_pods() {
        let link = |name: &str| {
            let mut m = LinkMessage::default();
            m.attributes.push(LinkAttribute::IfName(name.to_owned()));
            RouteNetlinkMessage::NewLink(m)
        };
        assert!(concerns_the_node(&link("eth0")));
        assert!(!concerns_the_node(&link("slc0123456789a")));
    }

    #[test]
    fn routes_of_pods_concern_nobody_but_pods() {
        let mut pod = RouteMessage::default();
        pod.header.protocol = netlink_packet_route::route::RouteProtocol::from(routes::PROTOCOL);
        pod.header.kind = RouteType::Unicast;
        pod.header.destination_prefix_length = 32;
        assert!(!concerns_the_node(&RouteNetlinkMessage::DelRoute(pod.clone())));
        assert!(!concerns_the_node(&RouteNetlinkMessage::NewRoute(pod.clone())));
        let mut other = pod;
        other.attributes.push(RouteAttribute::Gateway(
            netlink_packet_route::route::RouteAddress::Inet([172, 18, 0, 3].into()),
        ));
        assert!(concerns_the_node(&RouteNetlinkMessage::DelRoute(other)));
    }
}
