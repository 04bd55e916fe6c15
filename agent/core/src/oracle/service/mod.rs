//! Services, from the tables of endpoint selection and of frontends: KEP-1669, KEP-2086 and the
//! Kubernetes documentation. A verdict depends on the frontend, the position of the client and, at a
//! load balancer, its address. It is the same for system calls and packets.

mod frontend;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

pub use self::frontend::FrontendKind;
use self::frontend::{Found, find};
use super::pod::caught_up;
use crate::model::{
    Endpoint, EndpointSlice, Node, NodeContext, Object, Service, ServicePort, TrafficPolicy,
};

/// Position of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// A pod of this node.
    Pod,
    /// A process of this node.
    Node,
    /// Anyone else: pods and processes of other nodes, hosts outside the cluster.
    Other,
}

impl Client {
    /// Every position.
    pub const ALL: [Client; 3] = [Client::Pod, Client::Node, Client::Other];
}

/// The first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Position of the client.
    pub client: Client,
    /// Source address, before any translation.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

/// The source that an endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client's address.
    Kept,
    /// An address of this node.
    Node,
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
    /// The client is not in the source ranges of the load balancer: it is dropped.
    SourceNotAllowed,
    /// It is translated to one of several endpoints.
    Backends {
        /// Address and port of each endpoint.
        endpoints: BTreeSet<(IpAddr, u16)>,
        /// Session affinity: new flows of one client keep their endpoint until this many seconds
        /// pass without a new flow.
        affinity: Option<u32>,
        /// The source that endpoints see, unless the client is the endpoint itself, which sees the
        /// node.
        source: Source,
    },
}

/// An endpoint with its address and target port.
type Target<'a> = (IpAddr, u16, &'a Endpoint);

/// What a verdict depends on: all objects that exist, the name of this node, and what it knows about
/// itself.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// All objects.
    pub objects: &'a [Object],
    /// Name of this node.
    pub node: &'a str,
    /// Addresses of this node.
    pub context: &'a NodeContext,
}

/// The verdict for a packet that arrives at this node or is sent from it.
pub fn answer(world: World<'_>, packet: Packet) -> Answer {
    let objects = &*caught_up(world.objects);
    let world = World { objects, ..world };
    let (service, port, kind) = match find(world, packet) {
        Found::Nothing => return Answer::NotAService,
        Found::UnknownPort => return Answer::Rejected,
        Found::Frontend(service, port, kind) => (service, port, kind),
    };
    if kind == FrontendKind::LoadBalancer && !is_allowed(world, service, packet) {
        return Answer::SourceNotAllowed;
    }
    let targets = targets(world, service, port, packet.dst);
    let policy = match (kind, packet.client) {
        (FrontendKind::ClusterIp, _) => service.internal_traffic_policy,
        // The external policy does not apply to pods and processes of this node.
        (_, Client::Pod | Client::Node) => TrafficPolicy::Cluster,
        (_, Client::Other) => service.external_traffic_policy(),
    };
    let endpoints = match policy {
        TrafficPolicy::Cluster => cluster_set(world, &targets),
        TrafficPolicy::Local => local_set(world, &targets),
    };
    if !endpoints.is_empty() {
        let source = source(kind, service, packet.client);
        return Answer::Backends { endpoints, affinity: service.session_affinity, source };
    }
    if pick(&targets, &is_usable).is_empty() { Answer::Rejected } else { Answer::Dropped }
}

/// The client that endpoints see, by frontend and position of the client.
fn source(kind: FrontendKind, service: &Service, client: Client) -> Source {
    let policy = service.external_traffic_policy();
    match (kind, policy, client) {
        // A process of this node has an address of the node.
        (_, _, Client::Node) => Source::Node,
        (_, _, Client::Pod) => Source::Kept,
        (FrontendKind::ClusterIp, _, Client::Other) => Source::Node,
        (_, TrafficPolicy::Cluster, Client::Other) => Source::Node,
        (_, TrafficPolicy::Local, Client::Other) => Source::Kept,
    }
}

/// Whether a load balancer accepts a client. Ranges of the other family, and a range of length 0,
/// leave it open. If an address of this node is accepted, so is that of the load balancer.
fn is_allowed(world: World<'_>, service: &Service, packet: Packet) -> bool {
    let Some(external) = &service.external else { return true };
    let same_family = |net: &&IpNet| net.addr().is_ipv4() == packet.dst.is_ipv4();
    let ranges: Vec<&IpNet> = external.source_ranges.iter().filter(same_family).collect();
    if ranges.is_empty() || ranges.iter().any(|net| net.prefix_len() == 0) {
        return true;
    }
    let accepts = |address: &IpAddr| ranges.iter().any(|net| net.contains(address));
    let is_own = external.load_balancer_ips.contains(&packet.src);
    accepts(&packet.src) || (is_own && world.context.local_addresses.iter().any(accepts))
}

/// The first set that is not empty: endpoints with hints for this node, with hints for its zone, all
/// ready ones, all terminating ones.
fn cluster_set(world: World<'_>, targets: &[Target<'_>]) -> BTreeSet<(IpAddr, u16)> {
    let zone = world.objects.iter().find_map(|o| match o {
        Object::Node(Node { name, zone, .. }) if name == world.node => zone.clone(),
        _ => None,
    });
    let all_ready_have =
        |has: &dyn Fn(&Endpoint) -> bool| targets.iter().all(|(_, _, e)| !e.ready || has(e));
    let mut sets = Vec::new();
    if all_ready_have(&|e| !e.node_hints().is_empty()) {
        let hinted = |e: &Endpoint| e.node_hints().iter().any(|n| n == world.node);
        sets.push(pick(targets, &|e| e.ready && hinted(e)));
    }
    if all_ready_have(&|e| !e.zone_hints().is_empty()) {
        let hinted = |e: &Endpoint| e.zone_hints().iter().any(|z| Some(z) == zone.as_ref());
        sets.push(pick(targets, &|e| e.ready && hinted(e)));
    }
    sets.push(pick(targets, &|e| e.ready));
    sets.push(pick(targets, &is_fallback));
    sets.into_iter().find(|set| !set.is_empty()).unwrap_or_default()
}

/// Ready endpoints of this node, else its terminating ones.
fn local_set(world: World<'_>, targets: &[Target<'_>]) -> BTreeSet<(IpAddr, u16)> {
    let local = |e: &Endpoint| e.node_name.as_deref() == Some(world.node);
    let ready = pick(targets, &|e| e.ready && local(e));
    if ready.is_empty() { pick(targets, &|e| is_fallback(e) && local(e)) } else { ready }
}

fn pick(targets: &[Target<'_>], wanted: &dyn Fn(&Endpoint) -> bool) -> BTreeSet<(IpAddr, u16)> {
    targets.iter().filter(|(_, _, e)| wanted(e)).map(|(a, p, _)| (*a, *p)).collect()
}

/// The endpoints that are ready or serving. An existing UDP flow keeps its endpoint while that
/// endpoint is in this set, even if hints, readiness or the traffic policy exclude it for new flows.
pub fn usable_endpoints(world: World<'_>, packet: Packet) -> BTreeSet<(IpAddr, u16)> {
    let objects = &*caught_up(world.objects);
    let world = World { objects, ..world };
    match find(world, packet) {
        Found::Frontend(service, port, _) => {
            pick(&targets(world, service, port, packet.dst), &|e| e.ready || e.serving)
        }
        Found::Nothing | Found::UnknownPort => BTreeSet::new(),
    }
}

/// The endpoints of a Service port in the family of `address`; the same address and port in several
/// slices is one endpoint.
fn targets<'a>(
    world: World<'a>,
    service: &Service,
    port: &ServicePort,
    address: IpAddr,
) -> Vec<Target<'a>> {
    let mut slices: Vec<&EndpointSlice> = world
        .objects
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
    targets.sort_by_key(|(_, _, e)| {
        let is_elsewhere = e.node_name.as_deref() != Some(world.node);
        let is_unhinted = e.node_hints().len() + e.zone_hints().len() == 0;
        (!e.ready, e.terminating, !e.serving, is_elsewhere, is_unhinted)
    });
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
