//! A Service and its slices -> frontends with their backends.
//!
//! Each ClusterIP gets one row per port and a wildcard row. The wildcard row rejects every other
//! port, so that such packets are not routed in a loop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sluice_abi::{Backend, FrontendKey, PortBe, WILDCARD_PORT, WILDCARD_PROTO, frontend_flags};

use super::{FrontendRow, ServicePortId};
use crate::model::{Endpoint, EndpointSlice, Port, Protocol, Service, ServicePort};
use crate::select::{Locality, Selection, is_fallback, select};

/// Everything that the rows of a Service depend on.
#[derive(Clone, Debug)]
pub struct ServiceView<'a> {
    /// The Service.
    pub service: &'a Service,
    /// Its slices, in the order of their names.
    pub slices: Vec<&'a EndpointSlice>,
    /// Topology of this node.
    pub locality: Locality<'a>,
}

/// Compiles one Service. Each key occurs once: if two ports of the Service have the same number and
/// protocol, the first one in the list is used.
pub fn service(view: &ServiceView<'_>) -> Vec<(FrontendKey, FrontendRow)> {
    let service = view.service;
    if service.hidden || service.external_name || service.ports.is_empty() {
        return Vec::new();
    }
    let mut rows = Vec::new();
    for address in addresses(service) {
        let mut taken = BTreeSet::new();
        for port in &service.ports {
            if taken.insert((port.port, port.protocol)) {
                let key = FrontendKey {
                    addr: address.into(),
                    port: PortBe::new(port.port.get()),
                    proto: port.protocol.number(),
                    pad: 0,
                };
                rows.push((key, frontend(view, port, address)));
            }
        }
        let key = FrontendKey {
            addr: address.into(),
            port: WILDCARD_PORT,
            proto: WILDCARD_PROTO,
            pad: 0,
        };
        rows.push((key, wildcard(service)));
    }
    rows
}

/// The ClusterIPs that are programmed: the first of each family.
fn addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    let first = |wanted: fn(&IpAddr) -> bool| service.cluster_ips.iter().copied().find(wanted);
    [first(IpAddr::is_ipv4), first(IpAddr::is_ipv6)]
        .into_iter()
        .flatten()
        .filter(|address| !address.is_unspecified())
}

fn wildcard(service: &Service) -> FrontendRow {
    FrontendRow {
        service: ServicePortId { service: service.name.clone(), port: None },
        backends: Box::default(),
        unselected: Box::default(),
        flags: frontend_flags::WILDCARD,
        affinity_seconds: 0,
    }
}

fn frontend(view: &ServiceView<'_>, port: &ServicePort, address: IpAddr) -> FrontendRow {
    let endpoints = endpoints(&view.slices, port, address.is_ipv4());
    let refs: Vec<&Endpoint> = endpoints.values().copied().collect();
    let selection = select(view.service.internal_traffic_policy, view.locality, &refs);
    let chosen: &[usize] = if let Selection::Use(chosen) = &selection { chosen } else { &[] };

    // Positions ascend, so both lists are in the order of the keys: sorted.
    let mut chosen = chosen.iter().copied().peekable();
    let (mut backends, mut unselected) = (Vec::new(), Vec::new());
    for (position, ((address, target), endpoint)) in endpoints.iter().enumerate() {
        let backend = Backend {
            addr: (*address).into(),
            port: PortBe::new(target.get()),
            proto: port.protocol.number(),
            pad: 0,
        };
        if chosen.next_if_eq(&position).is_some() {
            backends.push(backend);
        } else if port.protocol == Protocol::Udp && (endpoint.ready || is_fallback(endpoint)) {
            unselected.push(backend);
        }
    }
    FrontendRow {
        service: ServicePortId {
            service: view.service.name.clone(),
            port: Some((port.name.clone(), port.protocol)),
        },
        backends: backends.into(),
        unselected: unselected.into(),
        flags: if selection == Selection::Drop { frontend_flags::DROP } else { 0 },
        affinity_seconds: view.service.session_affinity.unwrap_or(0),
    }
}

/// The endpoints of a Service port in one family. Slices are joined by port name and protocol; the
/// target port comes from the slice. The same address and port in several slices is one endpoint:
/// the entry that ranks highest counts, among equals the first by slice name.
fn endpoints<'a>(
    slices: &[&'a EndpointSlice],
    port: &ServicePort,
    v4: bool,
) -> BTreeMap<(IpAddr, Port), &'a Endpoint> {
    let mut found: BTreeMap<(IpAddr, Port), &Endpoint> = BTreeMap::new();
    for slice in slices.iter().filter(|s| !s.hidden) {
        let targets =
            slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for target in targets.filter_map(|p| p.port) {
            for endpoint in &slice.endpoints {
                let address = endpoint.address;
                if address.is_ipv4() != v4 || !slice.address_type.holds(address) {
                    continue;
                }
                let known = found.entry((address, target)).or_insert(endpoint);
                if rank(endpoint) > rank(known) {
                    *known = endpoint;
                }
            }
        }
    }
    found
}

fn rank(e: &Endpoint) -> (bool, bool, bool) {
    (e.ready, !e.terminating, e.serving)
}
