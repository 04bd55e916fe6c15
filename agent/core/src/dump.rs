//! Text form of the desired tables: one row per line, in the order of the keys.
//!
//! ```text
//! 10.96.0.10:53/UDP kube-system/kube-dns:dns/UDP -> 10.244.1.2:53 10.244.2.2:53
//! 10.96.0.10:* kube-system/kube-dns:* reject
//! 203.0.113.1:80/TCP shop/web:TCP load-balancer -> 10.244.1.2:80 cluster 10.244.1.2:80 10.244.2.2:80
//! network 10.244.1.0/24 local-pods
//! route 10.244.2.0/24 via 172.18.0.3
//! conflict 10.96.0.9:80/TCP shop/old before shop/new
//! ```

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use sluice_abi::{
    Addr, Backend, FrontendKey, NetworkKey, PortBe, WILDCARD_PROTO, network_kind, proto,
};

use crate::compile::{FrontendKind, Treatment};
use crate::model::{Protocol, TrafficPolicy};
use crate::tables::{FrontendView, Tables};

/// All rows, routes and conflicts.
pub fn tables(tables: &Tables) -> String {
    let mut text = String::new();
    let mut line = |l: String| {
        text.push_str(&l);
        text.push('\n');
    };
    tables.frontends().for_each(|(key, row)| line(frontend(key, &row)));
    for (key, value) in tables.networks() {
        line(format!("network {} {}", network(key), kind(value.kind)));
    }
    for (net, hop) in tables.routes() {
        line(format!("route {net} via {hop}"));
    }
    for o in tables.overlaps() {
        line(format!("overlap {} {} {} {}", o.services, o.pods, o.node, o.others));
    }
    for c in tables.conflicts() {
        let services: Vec<String> = c.services().map(ToString::to_string).collect();
        let (winner, losers) = services.split_at(1);
        let (winner, losers) = (winner.concat(), losers.join(" "));
        line(format!("conflict {} {winner} before {losers}", key(&c.key)));
    }
    text
}

/// One frontend and its row.
pub fn frontend(at: &FrontendKey, frontend: &FrontendView<'_>) -> String {
    let kind = match frontend.row.kind {
        FrontendKind::ClusterIp => "",
        FrontendKind::LoadBalancer => " load-balancer",
        FrontendKind::ExternalIp => " external-ip",
        FrontendKind::NodePort => " node-port",
    };
    let Some(port) = frontend.port else {
        return format!("{} {}:*{kind} reject", key(at), frontend.service);
    };
    let mut text = format!("{} {}{kind}", key(at), port.id);
    match frontend.treatment(false) {
        Treatment::Reject => text.push_str(" reject"),
        Treatment::Drop => text.push_str(" drop"),
        Treatment::Forward(backends) => list(&mut text, " ->", backends),
    }
    if frontend.row.policy == TrafficPolicy::Local {
        list(&mut text, " cluster", &port.cluster);
    }
    list(&mut text, " unselected", &port.unselected);
    if frontend.row.limited {
        // Writing to a String cannot fail.
        let ranges: Vec<String> = port.source_ranges.iter().map(ToString::to_string).collect();
        let _ = write!(text, " ranges {}", ranges.join(" "));
    }
    if port.affinity_seconds > 0 {
        let _ = write!(text, " affinity {}s", port.affinity_seconds);
    }
    text
}

/// Appends backends after a word, if there are any.
fn list(text: &mut String, word: &str, backends: &[Backend]) {
    if !backends.is_empty() {
        text.push_str(word);
    }
    for b in backends {
        text.push(' ');
        text.push_str(&backend(b));
    }
}

/// Address, port and protocol of a frontend; `*` for the wildcard row of an address.
pub fn key(key: &FrontendKey) -> String {
    let address = IpAddr::from(key.addr);
    if key.proto == WILDCARD_PROTO {
        return match address {
            IpAddr::V4(a) => format!("{a}:*"),
            IpAddr::V6(a) => format!("[{a}]:*"),
        };
    }
    format!("{}/{}", socket_address(key.addr, key.port), protocol(key.proto))
}

/// Address and port of a backend.
pub fn backend(backend: &Backend) -> String {
    socket_address(backend.addr, backend.port).to_string()
}

/// Address and port of a map entry; its `Display` is `address:port`, IPv6 in brackets.
pub fn socket_address(addr: Addr, port: PortBe) -> SocketAddr {
    SocketAddr::new(addr.into(), port.get())
}

/// Name of an IP protocol, or its number.
pub fn protocol(number: u8) -> String {
    protocol_name(number).map_or_else(|| number.to_string(), str::to_owned)
}

/// Name of an IP protocol that Sluice forwards.
pub fn protocol_name(number: u8) -> Option<&'static str> {
    match number {
        proto::ICMP => Some("ICMP"),
        proto::ICMPV6 => Some("ICMPv6"),
        _ => Protocol::from_number(number).map(Protocol::name),
    }
}

/// An address range in CIDR notation.
pub fn network(key: &NetworkKey) -> String {
    let address = IpAddr::from(key.addr);
    let bits = if address.is_ipv4() { key.prefix_len.saturating_sub(96) } else { key.prefix_len };
    format!("{address}/{bits}")
}

/// Name of a [`network_kind`].
pub fn kind(kind: u32) -> &'static str {
    match kind {
        network_kind::OUTSIDE => "outside",
        network_kind::LOCAL_PODS => "local-pods",
        network_kind::REMOTE_PODS => "remote-pods",
        network_kind::THIS_NODE => "this-node",
        network_kind::THIS_NODE_WITHOUT_NODE_PORTS => "this-node-without-node-ports",
        network_kind::OTHER_NODE => "other-node",
        network_kind::SERVICES => "services",
        _ => "unknown",
    }
}
