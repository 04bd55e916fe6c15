//! The verdicts of the programs and of the routing table, for desired rows.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use sluice_abi::{Addr, FrontendKey, PortBe, WILDCARD_PORT, WILDCARD_PROTO, network_kind};

use crate::compile::{FrontendKind, Treatment};
use crate::model::TrafficPolicy;
use crate::oracle::{Answer, Client, DestinationClass, Packet, Source};
use crate::tables::{FrontendView, Tables};

/// The verdict for the first packet of a flow. NodePorts are at addresses of this node that serve them,
/// no frontends at those of pods, and wildcards of external addresses apply to packets from other hosts.
pub fn service(tables: &Tables, packet: Packet) -> Answer {
    let Some(frontend) = frontend(tables, packet) else { return Answer::NotAService };
    let (affinity, ranges) =
        frontend.port.map_or((0, &[][..]), |port| (port.affinity_seconds, &port.source_ranges[..]));
    if frontend.row.limited && !ranges.iter().any(|net| net.contains(&packet.src)) {
        return Answer::SourceNotAllowed;
    }
    match frontend.treatment(packet.client != Client::Other) {
        Treatment::Forward(backends) => Answer::Backends {
            endpoints: backends.iter().map(|b| (b.addr.into(), b.port.get())).collect(),
            affinity: (affinity > 0).then_some(affinity),
            source: source(&frontend, packet.client),
        },
        Treatment::Drop => Answer::Dropped,
        Treatment::Reject => Answer::Rejected,
    }
}

/// What the programs do with the source, by the flags of the frontend.
fn source(frontend: &FrontendView<'_>, client: Client) -> Source {
    let keeps =
        frontend.row.kind != FrontendKind::ClusterIp && frontend.row.policy == TrafficPolicy::Local;
    match client {
        Client::Pod => Source::Kept,
        Client::Node => Source::Node,
        Client::Other if keeps => Source::Kept,
        Client::Other => Source::Node,
    }
}

/// The endpoints that existing UDP flows keep.
pub fn kept_by_udp_flows(tables: &Tables, packet: Packet) -> BTreeSet<(IpAddr, u16)> {
    let port = frontend(tables, packet).and_then(|frontend| frontend.port);
    let backends = port.into_iter().flat_map(|port| port.usable());
    backends.map(|b| (b.addr.into(), b.port.get())).collect()
}

fn frontend(tables: &Tables, packet: Packet) -> Option<FrontendView<'_>> {
    let exact = FrontendKey {
        addr: packet.dst.into(),
        port: PortBe::new(packet.port),
        proto: packet.protocol,
        pad: 0,
    };
    let wildcard = FrontendKey { port: WILDCARD_PORT, proto: WILDCARD_PROTO, ..exact };
    let class = network(tables, packet.dst);
    if matches!(class, DestinationClass::LocalPods | DestinationClass::RemotePods) {
        return None;
    }
    if let Some(frontend) = tables.frontend(&exact) {
        assert!(!frontend.row.wildcard && frontend.port.is_some(), "{exact:?}");
        return Some(frontend);
    }
    let any = if packet.dst.is_ipv4() { Addr::v4([0; 4]) } else { Addr::UNSPECIFIED };
    let node_port = tables.frontend(&FrontendKey { addr: any, ..exact });
    let kind = network_kind_of(tables, packet.dst);
    if let Some(frontend) = node_port.filter(|_| kind == Some(network_kind::THIS_NODE)) {
        return Some(frontend);
    }
    if matches!(class, DestinationClass::ThisNode | DestinationClass::OtherNode) {
        return None;
    }
    let frontend = tables.frontend(&wildcard)?;
    assert!(frontend.row.wildcard && frontend.port.is_none(), "{wildcard:?}");
    let external = frontend.row.kind != FrontendKind::ClusterIp;
    (!external || packet.client == Client::Other).then_some(frontend)
}

/// The kind of an address, by longest prefix.
fn network_kind_of(tables: &Tables, address: IpAddr) -> Option<u32> {
    let wanted = u128::from_be_bytes(Addr::from(address).0);
    let contains = |bits: u32, addr: Addr| {
        let shift = 128 - bits;
        let differing = wanted ^ u128::from_be_bytes(addr.0);
        differing.checked_shr(shift).unwrap_or(0) == 0
    };
    let rows = tables.networks().iter().filter(|(key, _)| contains(key.prefix_len, key.addr));
    rows.max_by_key(|(key, _)| key.prefix_len).map(|(_, network)| network.kind)
}

/// The class of an address.
pub fn network(tables: &Tables, address: IpAddr) -> DestinationClass {
    match network_kind_of(tables, address) {
        None => DestinationClass::Outside,
        Some(network_kind::LOCAL_PODS) => DestinationClass::LocalPods,
        Some(network_kind::REMOTE_PODS) => DestinationClass::RemotePods,
        Some(network_kind::THIS_NODE | network_kind::THIS_NODE_WITHOUT_NODE_PORTS) => {
            DestinationClass::ThisNode
        }
        Some(network_kind::OTHER_NODE) => DestinationClass::OtherNode,
        Some(network_kind::SERVICES) => DestinationClass::Services,
        Some(other) => panic!("network kind {other}"),
    }
}

/// The next hop, by longest prefix. The node has an unreachable route for each range of its own.
pub fn route(tables: &Tables, own: &[IpNet], address: IpAddr) -> Option<IpAddr> {
    let routes = tables.routes().iter().map(|(net, hop)| (*net, Some(*hop)));
    let own = own.iter().map(|net| (*net, None));
    // The last of equal prefixes is found: a route for a range of this node would hide it.
    let (_, hop) = own
        .chain(routes)
        .filter(|(net, _)| net.contains(&address))
        .max_by_key(|(net, _)| net.prefix_len())?;
    hop
}
