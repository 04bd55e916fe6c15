//! A Service and its slices -> frontends with their backends.
//!
//! ```text
//! ClusterIP, addresses of load balancers, external IPs   one row per port and a wildcard row
//! unspecified address                                    one row per NodePort
//! ```
//! The wildcard row rejects every other port, so that such packets are not routed in a loop. External
//! addresses that a node has, or that are in a pod range, have none: the other ports are those of the
//! node or pod. The programs apply the wildcard row of other external addresses to packets from the
//! wire only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use sluice_abi::{
    Addr, Backend, Family, FrontendKey, PortBe, WILDCARD_PORT, WILDCARD_PROTO, node_port_addr,
};

use super::{
    FrontendKind, FrontendRow, LocalPolicies, NodeAddresses, PortRow, ServicePortId, ServiceRows,
};
use crate::model::{Endpoint, EndpointSlice, Port, Protocol, Service, ServicePort, TrafficPolicy};
use crate::select::{self, Locality};

/// Everything that the rows of a Service depend on.
#[derive(Clone, Debug)]
pub struct ServiceView<'a> {
    /// The Service.
    pub service: &'a Service,
    /// Its slices, in the order of their names.
    pub slices: Vec<&'a EndpointSlice>,
    /// Topology of this node.
    pub locality: Locality<'a>,
    /// Addresses of nodes and their pods.
    pub nodes: &'a NodeAddresses,
}

/// Compiles one Service. If two ports of the Service lead to one key, the first one in the list is
/// used. A family without a ClusterIP has no frontends.
pub fn service(view: &ServiceView<'_>) -> ServiceRows {
    let service = view.service;
    let mut rows = ServiceRows::default();
    if service.hidden || service.external_name {
        return rows;
    }
    for family in [Family::V4, Family::V6] {
        let in_family = |address: &&IpAddr| Addr::from(**address).family() == family;
        let cluster_ip = service.cluster_ips.iter().find(in_family);
        if let Some(cluster_ip) = cluster_ip.filter(|address| !address.is_unspecified()) {
            let access = Access::new(service, *cluster_ip, family, view.nodes);
            access.add_rows(view, &mut rows);
        }
    }
    rows
}

/// How clients reach a Service in one family.
struct Access {
    family: Family,
    addresses: Vec<(IpAddr, FrontendKind)>,
    source_ranges: Box<[IpNet]>,
    local_policies: LocalPolicies,
}

impl Access {
    fn new(service: &Service, cluster_ip: IpAddr, family: Family, nodes: &NodeAddresses) -> Access {
        let mut addresses = vec![(cluster_ip, FrontendKind::ClusterIp)];
        let mut source_ranges: Box<[IpNet]> = Box::default();
        if let Some(external) = &service.external {
            let in_family = |a: &&IpAddr| Addr::from(**a).family() == family;
            let vips: Vec<IpAddr> =
                external.load_balancer_ips.iter().filter(in_family).copied().collect();
            source_ranges = limits(&external.source_ranges, family, &vips, nodes);
            addresses.extend(vips.into_iter().map(|a| (a, FrontendKind::LoadBalancer)));
            let ips = external.ips.iter().filter(in_family);
            addresses.extend(ips.map(|a| (*a, FrontendKind::ExternalIp)));
        }
        let is_external =
            addresses.len() > 1 || service.ports.iter().any(|port| port.node_port.is_some());
        let external = is_external && service.external_traffic_policy() == TrafficPolicy::Local;
        let internal = service.internal_traffic_policy == TrafficPolicy::Local;
        let local_policies = LocalPolicies { internal, external };
        Access { family, addresses, source_ranges, local_policies }
    }

    fn add_rows(&self, view: &ServiceView<'_>, rows: &mut ServiceRows) {
        let service = view.service;
        let mut taken = BTreeSet::new();
        let mut add = |key, at, row| {
            if taken.insert(key) {
                rows.frontends.push((key, at, row));
            }
        };
        let ports: Vec<usize> =
            service.ports.iter().map(|port| self.port_row(view, port, &mut rows.ports)).collect();
        for (address, kind) in &self.addresses {
            let limited = *kind == FrontendKind::LoadBalancer && !self.source_ranges.is_empty();
            let row = FrontendRow { limited, ..frontend(service, *kind) };
            for (port, at) in service.ports.iter().zip(&ports) {
                add(key((*address).into(), port.port, port.protocol), Some(*at), row);
            }
        }
        for (port, at) in service.ports.iter().zip(&ports) {
            if let Some(number) = port.node_port {
                let row = frontend(service, FrontendKind::NodePort);
                let addr = node_port_addr(self.family);
                add(key(addr, number, port.protocol), Some(*at), row);
            }
        }
        for (address, kind) in &self.addresses {
            let is_of_host = kind.is_external() && view.nodes.contains(address);
            if !service.ports.is_empty() && !is_of_host {
                let (port, proto) = (WILDCARD_PORT, WILDCARD_PROTO);
                let key = FrontendKey { addr: (*address).into(), port, proto, pad: 0 };
                add(key, None, FrontendRow { wildcard: true, ..frontend(service, *kind) });
            }
        }
    }

    /// The position of the row of a port, which is added if it is not there. Ports with the same name
    /// and protocol have the same endpoints.
    fn port_row(
        &self,
        view: &ServiceView<'_>,
        port: &ServicePort,
        rows: &mut Vec<PortRow>,
    ) -> usize {
        let id = ServicePortId {
            service: view.service.name.clone(),
            name: port.name.clone(),
            protocol: port.protocol,
            family: self.family,
        };
        rows.iter().position(|row| row.id == id).unwrap_or_else(|| {
            rows.push(self.sets(view, id));
            rows.len() - 1
        })
    }

    /// The sets of backends of a Service port.
    fn sets(&self, view: &ServiceView<'_>, id: ServicePortId) -> PortRow {
        let endpoints = endpoints(view, &id);
        let refs: Vec<&Endpoint> = endpoints.values().copied().collect();
        let mut chosen = vec![false; refs.len()];
        // Positions ascend, so every list is in the order of the keys: sorted.
        let all: Vec<Backend> =
            endpoints.keys().map(|target| backend(*target, id.protocol)).collect();
        let mut choose = |positions: Vec<usize>| -> Box<[Backend]> {
            positions.iter().for_each(|at| chosen[*at] = true);
            positions.into_iter().map(|at| all[at]).collect()
        };
        let cluster = choose(select::cluster_set(view.locality, &refs));
        let local_policies = self.local_policies;
        let uses_local_set = local_policies.internal || local_policies.external;
        let local = uses_local_set.then(|| choose(select::local_set(view.locality, &refs)));
        let rest = refs.iter().zip(&all).zip(&chosen).filter(|((endpoint, _), chosen)| {
            id.protocol == Protocol::Udp && !**chosen && (endpoint.ready || endpoint.serving)
        });
        let unselected = rest.map(|((_, backend), _)| *backend).collect();
        let affinity_seconds = view.service.session_affinity.unwrap_or(0);
        let source_ranges = self.source_ranges.clone();
        PortRow { cluster, local, unselected, source_ranges, affinity_seconds, local_policies, id }
    }
}

fn key(addr: Addr, port: Port, protocol: Protocol) -> FrontendKey {
    FrontendKey { addr, port: PortBe::new(port.get()), proto: protocol.number(), pad: 0 }
}

fn frontend(service: &Service, kind: FrontendKind) -> FrontendRow {
    let policy = if kind.is_external() {
        service.external_traffic_policy()
    } else {
        service.internal_traffic_policy
    };
    FrontendRow { kind, policy, wildcard: false, limited: false }
}

/// The clients of load balancers in one family; empty: all. A list without ranges of this family
/// leaves it open. A node in the ranges may send from the load balancer's own address.
fn limits(
    ranges: &[IpNet],
    family: Family,
    vips: &[IpAddr],
    nodes: &NodeAddresses,
) -> Box<[IpNet]> {
    let in_family = |net: &&IpNet| Addr::from(net.addr()).family() == family;
    let mut limits: BTreeSet<IpNet> = ranges.iter().filter(in_family).map(IpNet::trunc).collect();
    if vips.is_empty() || limits.iter().any(|net| net.prefix_len() == 0) {
        return Box::default();
    }
    if nodes.local().any(|address| limits.iter().any(|net| net.contains(address))) {
        limits.extend(vips.iter().copied().map(IpNet::from));
    }
    limits.into_iter().collect()
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
    view: &ServiceView<'a>,
    id: &ServicePortId,
) -> BTreeMap<(IpAddr, Port), &'a Endpoint> {
    let rank = |endpoint: &Endpoint| rank(endpoint, view.locality.node);
    let mut found: BTreeMap<(IpAddr, Port), &Endpoint> = BTreeMap::new();
    for slice in view.slices.iter().copied().filter(|s| !s.hidden) {
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

/// Conditions first. Among equals an entry on this node, as for kube-proxy, then one with hints: an entry
/// without them voids those of all other endpoints.
fn rank(e: &Endpoint, node: &str) -> (bool, bool, bool, bool, bool) {
    let is_local = e.node_name.as_deref() == Some(node);
    let has_hints = !e.node_hints().is_empty() || !e.zone_hints().is_empty();
    (e.ready, !e.terminating, e.serving, is_local, has_hints)
}
