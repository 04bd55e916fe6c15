//! The slow, plain reading of the contract: what should happen to one packet, straight from the
//! objects.
//!
//! It shares no code with [`crate::compile`] and [`crate::select`], and looks at every object for
//! every packet. Tests hold the compiled tables against it; nobody else should want it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::{Endpoint, EndpointSlice, Node, Object, Service, TrafficPolicy};

/// A first packet to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

/// What should happen to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is not sent to a Service.
    NotAService,
    /// The client is refused at once.
    Refused,
    /// It is dropped: only a Local policy keeps it from an endpoint.
    Dropped,
    /// It goes to one of these.
    Backends(BTreeSet<(IpAddr, u16)>),
}

/// Judges a packet sent from the node called `node`, given all objects that exist.
pub fn answer(objects: &[Object], node: &str, packet: Packet) -> Answer {
    let zone = objects.iter().find_map(|o| match o {
        Object::Node(Node { name, zone, .. }) if name == node => zone.clone(),
        _ => None,
    });

    // Who has the address?
    let mut owners: Vec<&Service> = objects
        .iter()
        .filter_map(|o| if let Object::Service(s) = o { Some(s) } else { None })
        .filter(|s| !s.hidden && !s.external_name && !s.ports.is_empty())
        .filter(|s| {
            let family = |a: &&IpAddr| a.is_ipv4() == packet.dst.is_ipv4();
            s.cluster_ips.iter().find(family) == Some(&packet.dst) && !packet.dst.is_unspecified()
        })
        .collect();
    if owners.is_empty() {
        return Answer::NotAService;
    }

    // Who has the port? The oldest.
    owners.sort_by_key(|s| (s.created, s.name.clone()));
    let wanted = owners.iter().find_map(|s| {
        let port = s
            .ports
            .iter()
            .find(|p| p.port.get() == packet.port && p.protocol.number() == packet.protocol)?;
        Some((*s, port))
    });
    let Some((service, port)) = wanted else { return Answer::Refused };

    // Its endpoints in this family, the same one from several slices only once.
    let mut slices: Vec<&EndpointSlice> = objects
        .iter()
        .filter_map(|o| if let Object::EndpointSlice(s) = o { Some(s) } else { None })
        .filter(|s| !s.hidden && s.name.namespace == service.name.namespace)
        .filter(|s| s.service.as_ref() == Some(&service.name.name))
        .collect();
    slices.sort_by_key(|s| s.name.clone());
    let mut endpoints: Vec<(IpAddr, u16, &Endpoint)> = Vec::new();
    for slice in slices {
        for target in &slice.ports {
            let Some(number) = target.port else { continue };
            if target.name.as_ref() != Some(&port.name) || target.protocol != port.protocol {
                continue;
            }
            for e in &slice.endpoints {
                if !slice.address_type.holds(e.address) {
                    continue;
                }
                if e.address.is_ipv4() == packet.dst.is_ipv4() {
                    endpoints.push((e.address, number.get(), e));
                }
            }
        }
    }
    // A stable sort: among equals the first by slice name stays in front.
    endpoints.sort_by_key(|(_, _, e)| (!e.ready, e.terminating, !e.serving));
    let mut seen = BTreeSet::new();
    endpoints.retain(|(address, port, _)| seen.insert((*address, *port)));

    // Which of them may serve?
    let ready = |e: &Endpoint| e.ready;
    let fallback = |e: &Endpoint| !e.ready && e.serving && e.terminating;
    let here = |e: &Endpoint| e.node_name.as_deref() == Some(node);
    let node_hint = |e: &Endpoint| e.hints.nodes.iter().any(|n| n == node);
    let zone_hint = |e: &Endpoint| e.hints.zones.iter().any(|z| Some(z) == zone.as_ref());
    let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<(IpAddr, u16)> {
        endpoints.iter().filter(|(_, _, e)| wanted(e)).map(|(a, p, _)| (*a, *p)).collect()
    };
    let no_ready_lacks =
        |has: &dyn Fn(&Endpoint) -> bool| endpoints.iter().all(|(_, _, e)| !e.ready || has(e));

    let mut sets = Vec::new();
    if service.internal_traffic_policy == TrafficPolicy::Local {
        sets.push(pick(&|e| ready(e) && here(e)));
        sets.push(pick(&|e| fallback(e) && here(e)));
    } else {
        if no_ready_lacks(&|e| !e.hints.nodes.is_empty()) {
            sets.push(pick(&|e| ready(e) && node_hint(e)));
        }
        if no_ready_lacks(&|e| !e.hints.zones.is_empty()) {
            sets.push(pick(&|e| ready(e) && zone_hint(e)));
        }
        sets.push(pick(&|e| ready(e)));
        sets.push(pick(&|e| fallback(e)));
    }
    if let Some(set) = sets.into_iter().find(|set| !set.is_empty()) {
        return Answer::Backends(set);
    }
    if pick(&|e| ready(e) || fallback(e)).is_empty() { Answer::Refused } else { Answer::Dropped }
}
