//! A Service and its slices -> frontends with their backends.
//!
//! Each ClusterIP gets one row per port and a wildcard row. The wildcard row rejects every other
//! port, so that such packets are not routed in a loop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sluice_abi::{Addr, Backend, Family, FrontendKey, PortBe, WILDCARD_PORT, WILDCARD_PROTO};

use super::{FrontendKind, FrontendRow, PortRow, ServicePortId, ServiceRows};
use crate::model::{Endpoint, EndpointSlice, Port, Protocol, Service, ServicePort, TrafficPolicy};
use crate::select::{self, Locality, is_fallback};

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

/// Compiles one Service. If two ports of the Service have the same number and protocol, the first one
/// in the list is used.
pub fn service(view: &ServiceView<'_>) -> ServiceRows {
    let service = view.service;
    let mut rows = ServiceRows::default();
    if service.hidden || service.external_name || service.ports.is_empty() {
        return rows;
    }
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
                let at = port_row(view, port, address, &mut rows.ports);
                rows.frontends.push((key, Some(at), frontend(service, false)));
            }
        }
        let key = FrontendKey {
            addr: address.into(),
            port: WILDCARD_PORT,
            proto: WILDCARD_PROTO,
            pad: 0,
        };
        rows.frontends.push((key, None, frontend(service, true)));
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

fn frontend(service: &Service, wildcard: bool) -> FrontendRow {
    let policy = service.internal_traffic_policy;
    FrontendRow { kind: FrontendKind::ClusterIp, policy, wildcard }
}

/// The position of the row of a port in the family of `address`, which is added if it is not there.
/// Ports with the same name and protocol have the same endpoints.
fn port_row(
    view: &ServiceView<'_>,
    port: &ServicePort,
    address: IpAddr,
    rows: &mut Vec<PortRow>,
) -> usize {
    let id = ServicePortId {
        service: view.service.name.clone(),
        name: port.name.clone(),
        protocol: port.protocol,
        family: Addr::from(address).family(),
    };
    rows.iter().position(|row| row.id == id).unwrap_or_else(|| {
        rows.push(sets(view, id));
        rows.len() - 1
    })
}

/// The sets of backends of a Service port.
fn sets(view: &ServiceView<'_>, id: ServicePortId) -> PortRow {
    let endpoints = endpoints(&view.slices, &id);
    let refs: Vec<&Endpoint> = endpoints.values().copied().collect();
    let mut chosen = vec![false; refs.len()];
    // Positions ascend, so every list is in the order of the keys: sorted.
    let all: Vec<Backend> = endpoints.keys().map(|target| backend(*target, id.protocol)).collect();
    let mut choose = |positions: Vec<usize>| -> Box<[Backend]> {
        positions.iter().for_each(|at| chosen[*at] = true);
        positions.into_iter().map(|at| all[at]).collect()
    };
    let cluster = choose(select::cluster_set(view.locality, &refs));
    let wanted = view.service.internal_traffic_policy == TrafficPolicy::Local;
    let local = wanted.then(|| choose(select::local_set(view.locality, &refs)));
    let rest = refs.iter().zip(&all).zip(&chosen).filter(|((endpoint, _), chosen)| {
        id.protocol == Protocol::Udp && !**chosen && (endpoint.ready || is_fallback(endpoint))
    });
    let unselected = rest.map(|((_, backend), _)| *backend).collect();
    let affinity_seconds = view.service.session_affinity.unwrap_or(0);
    PortRow { cluster, local, unselected, affinity_seconds, id }
}

fn backend((address, target): (IpAddr, Port), protocol: Protocol) -> Backend {
    Backend {
        addr: address.into(),
        port: PortBe::new(target.get()),
        proto: protocol.number(),
        pad: 0,
    }
}

/// The endpoints of a Service port. Slices are joined by port name and protocol; the
/// target port comes from the slice. The same address and port in several slices is one endpoint:
/// the entry that ranks highest counts, among equals the first by slice name.
fn endpoints<'a>(
    slices: &[&'a EndpointSlice],
    id: &ServicePortId,
) -> BTreeMap<(IpAddr, Port), &'a Endpoint> {
    let mut found: BTreeMap<(IpAddr, Port), &Endpoint> = BTreeMap::new();
    for slice in slices.iter().filter(|s| !s.hidden) {
        let targets = slice.ports.iter().filter(|p| p.name == id.name && p.protocol == id.protocol);
        for target in targets.filter_map(|p| p.port) {
            for endpoint in &slice.endpoints {
                let address = endpoint.address;
                let same_family = address.is_ipv4() == (id.family == Family::V4);
                if !same_family || !slice.address_type.holds(address) {
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
