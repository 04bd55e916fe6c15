//! Answers to the command line, from the agent's state.

use std::net::IpAddr;

use sluice_abi::{FrontendKey, WILDCARD_PROTO};
use sluice_core::tables::Conflict;

use crate::api::{Request, ServiceRow, Status};
use crate::dataplane::counters;
use crate::node::Node;

/// The answer as JSON.
pub fn answer(node: &Node, request: &Request) -> String {
    let json = match request {
        Request::Status => serde_json::to_string(&status(node)),
        Request::Services => serde_json::to_string(&services(node)),
    };
    json.unwrap_or_else(|e| serde_json::json!({ "error": e.to_string() }).to_string())
}

fn status(node: &Node) -> Status {
    let uplink = node.uplink();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: node.config().node_name.clone(),
        source: node.source(),
        ready: node.parts().health.ready(),
        synced: node.synced(),
        uplink: uplink.map(|u| u.link.name.clone()),
        address: uplink.and_then(|u| u.v4.or(u.v6)).map(|a| a.to_string()),
        mtu: node.mtu(),
        pod_cidrs: node.pod_cidrs().iter().map(ToString::to_string).collect(),
        tables: node.rows().into_iter().map(|(t, n)| (t.to_owned(), n)).collect(),
        problems: node.problems(),
        counters: counters::read(&node.parts().maps.counters).unwrap_or_default(),
    }
}

fn services(node: &Node) -> Vec<ServiceRow> {
    node.tables()
        .frontends()
        .filter(|(key, _)| key.proto != WILDCARD_PROTO)
        .map(|(key, row)| {
            let (port_name, protocol) = match &row.service.port {
                Some((name, protocol)) => (name.clone(), protocol.to_string()),
                None => (String::new(), String::new()),
            };
            ServiceRow {
                service: row.service.service.to_string(),
                port_name,
                protocol,
                address: IpAddr::from(key.addr).to_string(),
                port: key.port.get(),
                backends: row
                    .backends
                    .iter()
                    .map(|b| end(IpAddr::from(b.addr), b.port.get()))
                    .collect(),
            }
        })
        .collect()
}

/// `address:port`, IPv6 in brackets.
fn end(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// A conflict in one line.
pub fn conflict(c: &Conflict) -> String {
    let FrontendKey { addr, port, .. } = c.key;
    let losers: Vec<String> = c.losers.iter().map(ToString::to_string).collect();
    format!(
        "{} belongs to Service {}, the older one; not served: {}",
        end(IpAddr::from(addr), port.get()),
        c.winner,
        losers.join(", ")
    )
}
