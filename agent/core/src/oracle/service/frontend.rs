//! The frontend that a destination is, if any.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::network::{DestinationClass, network};
use super::{Client, Packet, World};
use crate::model::{NodePortAddresses, Object, Service, ServicePort};

/// Kind of a frontend, in the order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrontendKind {
    /// A ClusterIP.
    ClusterIp,
    /// An address of a load balancer.
    LoadBalancer,
    /// An external IP.
    ExternalIp,
    /// A port at the addresses of this node.
    NodePort,
}

/// What a destination is.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// Not a Service.
    Nothing,
    /// An address of a Service without this port or protocol.
    UnknownPort,
    /// A port of a Service.
    Frontend(&'a Service, &'a ServicePort, FrontendKind),
}

/// Finds the frontend. Of several Services with the same address and port, the kind of address
/// decides, then the age. An address and port precede a NodePort, which is at addresses of this node
/// that serve NodePorts. Other ports of a ClusterIP are unknown, unless a node has the address. So are those of other addresses, to packets from other
/// hosts, unless the address is one of a node or a pod. An address of a pod is never a frontend.
pub fn find(world: World<'_>, packet: Packet) -> Found<'_> {
    let Packet { dst, port, protocol, .. } = packet;
    let class = network(world.objects, world.node, world.context, dst);
    if matches!(class, DestinationClass::LocalPods | DestinationClass::RemotePods) {
        return Found::Nothing;
    }
    let mut candidates: Vec<(FrontendKind, &Service, &ServicePort)> = Vec::new();
    let mut has_address = false;
    let of_node_or_pod = world.objects.iter().any(|o| match o {
        Object::Node(node) => {
            let mut addresses = node.internal_ips.iter().chain(&node.external_ips);
            addresses.any(|a| *a == dst) || node.pod_cidrs.iter().any(|net| net.contains(&dst))
        }
        _ => false,
    });
    let is_of_host = of_node_or_pod || world.context.local_addresses.contains(&dst);
    let has_node_ports = serves_node_ports(world, dst);
    let of_a_node = matches!(class, DestinationClass::ThisNode | DestinationClass::OtherNode);
    let from_elsewhere = packet.client == Client::Other;
    for service in programmed(world.objects, dst) {
        for kind in kinds(service, dst) {
            let with_wildcard =
                !of_a_node && (kind == FrontendKind::ClusterIp || (from_elsewhere && !is_of_host));
            has_address |= with_wildcard && !service.ports.is_empty();
            let same = |p: &&ServicePort| p.port.get() == port && p.protocol.number() == protocol;
            candidates.extend(service.ports.iter().find(same).map(|p| (kind, service, p)));
        }
        let same = |p: &&ServicePort| {
            p.node_port.is_some_and(|p| p.get() == port) && p.protocol.number() == protocol
        };
        if let Some(p) = service.ports.iter().find(same).filter(|_| has_node_ports) {
            candidates.push((FrontendKind::NodePort, service, p));
        }
    }
    candidates.sort_by_key(|(kind, service, _)| (*kind, service.created, service.name.clone()));
    match candidates.first() {
        Some((kind, service, port)) => Found::Frontend(service, port, *kind),
        None if has_address => Found::UnknownPort,
        None => Found::Nothing,
    }
}

/// Whether an address is one of this node that serves NodePorts: one that `--nodeport-addresses`
/// selects, outside the ranges of ClusterIPs and pods.
fn serves_node_ports(world: World<'_>, address: IpAddr) -> bool {
    let mut ranges = world.context.service_cidrs.clone();
    let mut primary = None;
    for object in world.objects {
        match object {
            Object::ServiceCidr(o) => ranges.extend(o.cidrs.iter().copied()),
            Object::Node(node) => {
                ranges.extend(node.pod_cidrs.iter().copied());
                if node.name == world.node {
                    let ips = &node.internal_ips;
                    primary = ips.iter().copied().find(|ip| ip.is_ipv4() == address.is_ipv4());
                }
            }
            _ => {}
        }
    }
    let selected = match &world.context.node_ports {
        NodePortAddresses::All => true,
        NodePortAddresses::Primary => primary == Some(address),
        NodePortAddresses::Ranges(nets) => {
            let family = |net: &&IpNet| net.addr().is_ipv4() == address.is_ipv4();
            !nets.iter().any(|net| family(&net))
                || nets.iter().filter(family).any(|net| net.contains(&address))
        }
    };
    selected
        && world.context.local_addresses.contains(&address)
        && !ranges.iter().any(|net| net.contains(&address))
}

/// Services with a ClusterIP in the family of an address: only these have frontends in it.
fn programmed(objects: &[Object], dst: IpAddr) -> impl Iterator<Item = &Service> {
    let services = objects.iter().filter_map(|o| match o {
        Object::Service(service) if !service.hidden && !service.external_name => Some(service),
        _ => None,
    });
    services.filter(move |service| cluster_ip(service, dst).is_some())
}

/// The first ClusterIP in the family of an address.
fn cluster_ip(service: &Service, dst: IpAddr) -> Option<IpAddr> {
    let first = service.cluster_ips.iter().copied().find(|a| a.is_ipv4() == dst.is_ipv4())?;
    (!first.is_unspecified()).then_some(first)
}

/// What an address is to a Service.
fn kinds(service: &Service, dst: IpAddr) -> Vec<FrontendKind> {
    let mut kinds = Vec::new();
    if cluster_ip(service, dst) == Some(dst) {
        kinds.push(FrontendKind::ClusterIp);
    }
    if let Some(external) = &service.external {
        if external.load_balancer_ips.contains(&dst) {
            kinds.push(FrontendKind::LoadBalancer);
        }
        if external.ips.contains(&dst) {
            kinds.push(FrontendKind::ExternalIp);
        }
    }
    kinds
}
