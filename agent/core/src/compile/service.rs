//! A Service and its slices -> frontends with their backends.
//!
//! Each ClusterIP gets a row per port and a wildcard row, which refuses every other port of a live
//! address and so keeps it from being routed in circles.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sluice_abi::{Backend, FrontendKey, PortBe, WILDCARD_PORT, WILDCARD_PROTO, frontend_flags};

use super::{FrontendRow, ServicePortId};
use crate::model::{Endpoint, EndpointSlice, Port, Protocol, Service, ServicePort};
use crate::select::{Here, Selection, is_fallback, select};

/// All that the rows of a Service depend on.
#[derive(Clone, Debug)]
pub struct ServiceView<'a> {
    /// The Service.
    pub service: &'a Service,
    /// Its slices, by name.
    pub slices: Vec<&'a EndpointSlice>,
    /// Where we are.
    pub here: Here<'a>,
}

/// Compiles one Service. Each key occurs once; where ports of one Service collide, the first
/// listed has the key.
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

/// The ClusterIPs in use: the first of each family.
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
        backends: Vec::new(),
        idle: Vec::new(),
        flags: frontend_flags::WILDCARD,
        affinity_seconds: 0,
    }
}

fn frontend(view: &ServiceView<'_>, port: &ServicePort, address: IpAddr) -> FrontendRow {
    let endpoints = endpoints(&view.slices, port, address.is_ipv4());
    let refs: Vec<&Endpoint> = endpoints.values().copied().collect();
    let selection = select(view.service.internal_traffic_policy, view.here, &refs);
    let chosen: &[usize] = if let Selection::Use(chosen) = &selection { chosen } else { &[] };

    // Positions ascend, so both lists come out in the order of the keys: sorted.
    let mut chosen = chosen.iter().copied().peekable();
    let (mut backends, mut idle) = (Vec::new(), Vec::new());
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
            idle.push(backend);
        }
    }
    FrontendRow {
        service: ServicePortId {
            service: view.service.name.clone(),
            port: Some((port.name.clone(), port.protocol)),
        },
        backends,
        idle,
        flags: if selection == Selection::Drop { frontend_flags::DROP } else { 0 },
        affinity_seconds: view.service.session_affinity.unwrap_or(0),
    }
}

/// The endpoints behind a Service port in one family, joined by port name and protocol; the number
/// comes from the slice. An address and port that several slices name is one
/// endpoint: the one fitter to serve counts (7.2), among equals the first by slice name.
fn endpoints<'a>(
    slices: &[&'a EndpointSlice],
    port: &ServicePort,
    v4: bool,
) -> BTreeMap<(IpAddr, Port), &'a Endpoint> {
    let mut found: BTreeMap<(IpAddr, Port), &Endpoint> = BTreeMap::new();
    for slice in slices.iter().filter(|s| !s.hidden) {
        let targets = slice
            .ports
            .iter()
            .filter(|p| p.name.as_deref() == Some(&port.name) && p.protocol == port.protocol);
        for target in targets.filter_map(|p| p.port) {
            for endpoint in &slice.endpoints {
                let address = endpoint.address;
                if address.is_ipv4() != v4 || !slice.address_type.holds(address) {
                    continue;
                }
                let known = found.entry((address, target)).or_insert(endpoint);
                if fitness(endpoint) > fitness(known) {
                    *known = endpoint;
                }
            }
        }
    }
    found
}

fn fitness(e: &Endpoint) -> (bool, bool, bool) {
    (e.ready, !e.terminating, e.serving)
}
