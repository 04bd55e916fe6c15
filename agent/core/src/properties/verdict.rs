//! The verdicts of the programs and of the routing table, for desired rows.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use sluice_abi::{Addr, FrontendKey, PortBe, WILDCARD_PORT, WILDCARD_PROTO, network_kind};

use crate::compile::Treatment;
use crate::oracle::{Answer, DestinationClass, Packet};
use crate::tables::{FrontendView, Tables};

/// The verdict for the first packet of a flow.
pub fn service(tables: &Tables, packet: Packet) -> Answer {
    let Some(frontend) = frontend(tables, packet) else { return Answer::NotAService };
    let affinity = frontend.port.map_or(0, |port| port.affinity_seconds);
    match frontend.treatment(true) {
        Treatment::Forward(backends) => Answer::Backends {
            endpoints: backends.iter().map(|b| (b.addr.into(), b.port.get())).collect(),
            affinity: (affinity > 0).then_some(affinity),
        },
        Treatment::Drop => Answer::Dropped,
        Treatment::Reject => Answer::Rejected,
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
    if let Some(frontend) = tables.frontend(&exact) {
        assert!(!frontend.row.wildcard && frontend.port.is_some(), "{exact:?}");
        return Some(frontend);
    }
    let frontend = tables.frontend(&wildcard)?;
    assert!(frontend.row.wildcard && frontend.port.is_none(), "{wildcard:?}");
    Some(frontend)
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
