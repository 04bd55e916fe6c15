//! The verdicts of the programs and of the routing table, for desired rows.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use sluice_abi::{
    Addr, FrontendKey, PortBe, WILDCARD_PORT, WILDCARD_PROTO, frontend_flags, network_kind,
};

use crate::compile::FrontendRow;
use crate::oracle::{Answer, DestinationClass, Packet};
use crate::tables::Tables;

/// The verdict for the first packet of a flow.
pub fn service(tables: &Tables, packet: Packet) -> Answer {
    match frontend(tables, packet) {
        None => Answer::NotAService,
        Some(row) if !row.backends.is_empty() => Answer::Backends {
            endpoints: row.backends.iter().map(|b| (b.addr.into(), b.port.get())).collect(),
            affinity: (row.affinity_seconds > 0).then_some(row.affinity_seconds),
        },
        Some(row) if row.flags & frontend_flags::DROP != 0 => Answer::Dropped,
        Some(_) => Answer::Rejected,
    }
}

/// The endpoints that existing UDP flows keep.
pub fn kept_by_udp_flows(tables: &Tables, packet: Packet) -> BTreeSet<(IpAddr, u16)> {
    let row = frontend(tables, packet);
    let backends = row.into_iter().flat_map(|row| row.backends.iter().chain(&row.unselected));
    backends.map(|b| (b.addr.into(), b.port.get())).collect()
}

fn frontend(tables: &Tables, packet: Packet) -> Option<&FrontendRow> {
    let exact = FrontendKey {
        addr: packet.dst.into(),
        port: PortBe::new(packet.port),
        proto: packet.protocol,
        pad: 0,
    };
    let wildcard = FrontendKey { port: WILDCARD_PORT, proto: WILDCARD_PROTO, ..exact };
    tables.frontend(&exact).or_else(|| tables.frontend(&wildcard))
}

/// The class of an address, by longest prefix.
pub fn network(tables: &Tables, address: IpAddr) -> DestinationClass {
    let wanted = u128::from_be_bytes(Addr::from(address).0);
    let contains = |bits: u32, addr: Addr| {
        let shift = 128 - bits;
        let differing = wanted ^ u128::from_be_bytes(addr.0);
        differing.checked_shr(shift).unwrap_or(0) == 0
    };
    let rows = tables.networks().iter().filter(|(key, _)| contains(key.prefix_len, key.addr));
    match rows.max_by_key(|(key, _)| key.prefix_len).map(|(_, network)| network.kind) {
        None => DestinationClass::Outside,
        Some(network_kind::LOCAL_PODS) => DestinationClass::LocalPods,
        Some(network_kind::REMOTE_PODS) => DestinationClass::RemotePods,
        Some(network_kind::THIS_NODE) => DestinationClass::ThisNode,
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
