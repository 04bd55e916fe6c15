//! Routes to the pods of other nodes: desired against actual.
//!
//! Only routes of the main table with [`PROTOCOL`] are ours, and of these the ones that lead to a
//! single pod's device belong to the CNI binary. A netlink dump can be cut short under churn
//! without saying so, therefore nothing is deleted that two dumps have not shown.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::RouteMessageBuilder;

use super::{Host, HostError};

/// Number in the protocol field that marks a route as Sluice's.
pub const PROTOCOL: u8 = 83;

/// Metric of the unreachable route under this node's own pods: their /32 routes win by length,
/// whatever else somebody sets for the range wins by metric.
const UNREACHABLE_METRIC: u32 = 65_535;

/// Where a range leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// To the node with this address.
    Via(IpAddr),
    /// Nowhere: an address of ours that no pod has must not wander off by the default route.
    Unreachable,
}

/// Routes by destination.
pub type Routes = BTreeMap<IpNet, Hop>;

/// What [`Host::sync_routes`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Routes added or changed.
    pub written: usize,
    /// Routes removed.
    pub removed: usize,
    /// Routes that the kernel refused, with its answer.
    pub refused: Vec<(IpNet, String)>,
}

impl Host {
    /// Makes the kernel's routes equal to `desired`. A next hop that is not reachable on a
    /// connected network is refused by the kernel and reported.
    ///
    /// # Errors
    /// When the routes cannot be listed.
    pub async fn sync_routes(&self, desired: &Routes) -> Result<Synced, HostError> {
        let mut synced = Synced::default();
        let actual = self.our_routes().await?;
        for (dst, hop) in desired {
            if actual.get(dst) == Some(hop) {
                continue;
            }
            // A range that changes its kind is two routes to the kernel: old one first.
            if let Some(old) = actual.get(dst)
                && std::mem::discriminant(old) != std::mem::discriminant(hop)
            {
                self.delete(dst, old).await;
            }
            let request = self.handle.route().add(message(dst, hop)).replace();
            match request.execute().await {
                Ok(()) => synced.written += 1,
                Err(e) => synced.refused.push((*dst, reason(&e))),
            }
        }
        let gone = |have: &Routes| -> Vec<IpNet> {
            have.keys().filter(|dst| !desired.contains_key(dst)).copied().collect()
        };
        if !gone(&actual).is_empty() {
            let again = self.our_routes().await?;
            for dst in gone(&again) {
                if let (Some(hop), true) = (again.get(&dst), actual.contains_key(&dst)) {
                    self.delete(&dst, hop).await;
                    synced.removed += 1;
                }
            }
        }
        Ok(synced)
    }

    async fn delete(&self, dst: &IpNet, hop: &Hop) {
        if let Err(e) = self.handle.route().del(message(dst, hop)).execute().await {
            tracing::warn!(%dst, error = %reason(&e), "route not removed");
        }
    }

    async fn our_routes(&self) -> Result<Routes, HostError> {
        let mut ours = Routes::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for m in self.routes(family).await? {
                if let Some((dst, hop)) = ours_of(&m) {
                    ours.insert(dst, hop);
                }
            }
        }
        Ok(ours)
    }
}

/// Whether a route message is about a pod's own route, which the CNI binary keeps.
pub fn belongs_to_a_pod(m: &RouteMessage) -> bool {
    m.header.protocol == RouteProtocol::from(PROTOCOL)
        && m.header.kind == RouteType::Unicast
        && !m.attributes.iter().any(|a| matches!(a, RouteAttribute::Gateway(_)))
}

/// Destination and hop of a route that this module may touch.
fn ours_of(m: &RouteMessage) -> Option<(IpNet, Hop)> {
    if m.header.protocol != RouteProtocol::from(PROTOCOL) || belongs_to_a_pod(m) {
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
    let mut m = RouteMessageBuilder::<IpAddr>::new()
        .protocol(RouteProtocol::from(PROTOCOL))
        .scope(RouteScope::Universe)
        .build();
    m.header.address_family = family(&dst.addr());
    m.header.destination_prefix_length = dst.prefix_len();
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

fn reason(e: &rtnetlink::Error) -> String {
    match e {
        rtnetlink::Error::NetlinkError(m) => m.to_io().to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_reads_back_as_it_was_written() {
        for (dst, hop) in [
            ("10.244.1.0/24", Hop::Via("172.18.0.3".parse().unwrap())),
            ("fd00:1::/64", Hop::Via("fc00::3".parse().unwrap())),
            ("10.244.0.0/24", Hop::Unreachable),
        ] {
            let dst: IpNet = dst.parse().unwrap();
            assert_eq!(ours_of(&message(&dst, &hop)), Some((dst, hop)));
        }
    }

    #[test]
    fn pod_routes_and_strangers_are_left_alone() {
        let dst = "10.244.0.7/32".parse().unwrap();
        let mut pod = message(&dst, &Hop::Via("172.18.0.3".parse().unwrap()));
        pod.attributes.retain(|a| !matches!(a, RouteAttribute::Gateway(_)));
        pod.attributes.push(RouteAttribute::Oif(9));
        assert!(belongs_to_a_pod(&pod));
        assert_eq!(ours_of(&pod), None);
        let mut stranger = message(&dst, &Hop::Via("172.18.0.3".parse().unwrap()));
        stranger.header.protocol = RouteProtocol::Static;
        assert_eq!(ours_of(&stranger), None);
    }
}
