//! Services: the endpoints that the first packet of a flow may be sent to.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::pod::caught_up;
use crate::model::{Endpoint, EndpointSlice, Node, Object, Service, ServicePort, TrafficPolicy};

/// The first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

/// The expected verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The destination is not a Service: it is not translated.
    NotAService,
    /// No endpoint is usable on any node, or the Service has no such port: the client is rejected.
    Rejected,
    /// Endpoints are usable, but the Local traffic policy excludes all of them: it is dropped.
    Dropped,
    /// It is translated to one of several endpoints.
    Backends {
        /// Address and port of each endpoint.
        endpoints: BTreeSet<(IpAddr, u16)>,
        /// Session affinity: new flows of one client keep their endpoint until this many seconds
        /// pass without a new flow.
        affinity: Option<u32>,
    },
}

/// An endpoint with its address and target port.
type Target<'a> = (IpAddr, u16, &'a Endpoint);

/// The verdict for a packet sent from the node called `node`, given all objects that exist.
pub fn answer(objects: &[Object], node: &str, packet: Packet) -> Answer {
    let objects = &*caught_up(objects);
    let owners = owners(objects, packet.dst);
    if owners.is_empty() {
        return Answer::NotAService;
    }
    let Some((service, port)) = served_port(&owners, packet) else { return Answer::Rejected };
    let targets = targets(objects, service, port, packet.dst);
    let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<(IpAddr, u16)> {
        targets.iter().filter(|(_, _, e)| wanted(e)).map(|(a, p, _)| (*a, *p)).collect()
    };
    let local = |e: &Endpoint| e.node_name.as_deref() == Some(node);

    // The first set that is not empty is used.
    let mut sets = Vec::new();
    if service.internal_traffic_policy == TrafficPolicy::Local {
        sets.push(pick(&|e| e.ready && local(e)));
        sets.push(pick(&|e| is_fallback(e) && local(e)));
    } else {
        let zone = objects.iter().find_map(|o| match o {
            Object::Node(Node { name, zone, .. }) if name == node => zone.clone(),
            _ => None,
        });
        let all_ready_have =
            |has: &dyn Fn(&Endpoint) -> bool| targets.iter().all(|(_, _, e)| !e.ready || has(e));
        if all_ready_have(&|e| !e.node_hints().is_empty()) {
            sets.push(pick(&|e| e.ready && e.node_hints().iter().any(|n| n == node)));
        }
        if all_ready_have(&|e| !e.zone_hints().is_empty()) {
            let hinted = |e: &Endpoint| e.zone_hints().iter().any(|z| Some(z) == zone.as_ref());
            sets.push(pick(&|e| e.ready && hinted(e)));
        }
        sets.push(pick(&|e| e.ready));
        sets.push(pick(&is_fallback));
    }
    if let Some(endpoints) = sets.into_iter().find(|set| !set.is_empty()) {
        return Answer::Backends { endpoints, affinity: service.session_affinity };
    }
    if pick(&is_usable).is_empty() { Answer::Rejected } else { Answer::Dropped }
}

/// The endpoints that are usable on some node. An existing UDP flow keeps its endpoint while that
/// endpoint is in this set, even if hints or the traffic policy exclude it for new flows.
pub fn usable_endpoints(objects: &[Object], packet: Packet) -> BTreeSet<(IpAddr, u16)> {
    let objects = &*caught_up(objects);
    let owners = owners(objects, packet.dst);
    let Some((service, port)) = served_port(&owners, packet) else { return BTreeSet::new() };
    let targets = targets(objects, service, port, packet.dst);
    targets.iter().filter(|(_, _, e)| is_usable(e)).map(|(a, p, _)| (*a, *p)).collect()
}

/// The Services with this ClusterIP, oldest first.
fn owners(objects: &[Object], address: IpAddr) -> Vec<&Service> {
    let mut owners: Vec<&Service> = objects
        .iter()
        .filter_map(|o| if let Object::Service(s) = o { Some(s) } else { None })
        .filter(|s| !s.hidden && !s.external_name && !s.ports.is_empty())
        .filter(|s| {
            let same_family = |a: &&IpAddr| a.is_ipv4() == address.is_ipv4();
            s.cluster_ips.iter().find(same_family) == Some(&address) && !address.is_unspecified()
        })
        .collect();
    owners.sort_by_key(|s| (s.created, s.name.clone()));
    owners
}

/// The port of the oldest Service that has it.
fn served_port<'a>(
    owners: &[&'a Service],
    packet: Packet,
) -> Option<(&'a Service, &'a ServicePort)> {
    owners.iter().find_map(|s| {
        let same = |p: &&ServicePort| {
            p.port.get() == packet.port && p.protocol.number() == packet.protocol
        };
        Some((*s, s.ports.iter().find(same)?))
    })
}

/// The endpoints of a Service port in the family of `address`; the same address and port in several
/// slices is one endpoint.
fn targets<'a>(
    objects: &'a [Object],
    service: &Service,
    port: &ServicePort,
    address: IpAddr,
) -> Vec<Target<'a>> {
    let mut slices: Vec<&EndpointSlice> = objects
        .iter()
        .filter_map(|o| if let Object::EndpointSlice(s) = o { Some(s) } else { None })
        .filter(|s| !s.hidden && s.name.namespace == service.name.namespace)
        .filter(|s| s.service.as_ref() == Some(&service.name.name))
        .collect();
    slices.sort_by_key(|s| s.name.clone());
    let mut targets: Vec<Target<'a>> = Vec::new();
    for slice in slices {
        for target in &slice.ports {
            let Some(number) = target.port else { continue };
            if target.name != port.name || target.protocol != port.protocol {
                continue;
            }
            let addresses = slice.endpoints.iter().filter(|e| slice.address_type.holds(e.address));
            for e in addresses.filter(|e| e.address.is_ipv4() == address.is_ipv4()) {
                targets.push((e.address, number.get(), e));
            }
        }
    }
    // The sort is stable: among equals, the first by slice name remains.
    targets.sort_by_key(|(_, _, e)| (!e.ready, e.terminating, !e.serving));
    let mut seen = BTreeSet::new();
    targets.retain(|(address, port, _)| seen.insert((*address, *port)));
    targets
}

/// Usable if no endpoint is ready.
fn is_fallback(e: &Endpoint) -> bool {
    !e.ready && e.serving && e.terminating
}

fn is_usable(e: &Endpoint) -> bool {
    e.ready || is_fallback(e)
}
