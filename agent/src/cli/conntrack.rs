//! `sluice conntrack`: the flows of pods and of Services.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use serde::Serialize;
use sluice_abi::{Addr, FlowEntry, FlowKind, proto, tcp_state, tick_seconds};
use sluice_core::dump;
use sluice_packet::lifetime;

use super::maps;
use super::output::{Output, TableRow, print_rows};
use crate::flows;

/// Flags of `sluice conntrack`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Show only flows with this address, before or after translation.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
}

/// A flow in the direction of its first packet.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FlowRow {
    protocol: String,
    source: SocketAddr,
    destination: SocketAddr,
    new_source: SocketAddr,
    new_destination: SocketAddr,
    kind: String,
    state: &'static str,
    idle_seconds: u32,
}

impl FlowRow {
    fn new(entry: &FlowEntry, now: u32) -> FlowRow {
        let (key, translated) = (&entry.other, &entry.tuple);
        FlowRow {
            protocol: dump::protocol(key.proto),
            source: dump::socket_address(key.src, key.sport),
            destination: dump::socket_address(key.dst, key.dport),
            new_source: dump::socket_address(translated.src, translated.sport),
            new_destination: dump::socket_address(translated.dst, translated.dport),
            kind: entry.kind().map_or("unknown", FlowKind::label).to_owned(),
            state: state(entry),
            idle_seconds: tick_seconds(lifetime::idle(entry, now)),
        }
    }
}

/// What both sides have sent.
fn state(entry: &FlowEntry) -> &'static str {
    use tcp_state::{FIN, RESET};

    let [client, server] = entry.tcp;
    match entry.tuple.proto {
        proto::TCP if client == RESET || server == RESET => "reset",
        proto::TCP if client == FIN && server == FIN => "closed",
        proto::TCP if client == FIN || server == FIN => "half-closed",
        _ if entry.is_replied() => "replied",
        _ => "unreplied",
    }
}

impl TableRow for FlowRow {
    const HEADER: &'static [&'static str] = &[
        "PROTOCOL",
        "SOURCE",
        "DESTINATION",
        "NEW SOURCE",
        "NEW DESTINATION",
        "KIND",
        "STATE",
        "IDLE",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.protocol.clone(),
            self.source.to_string(),
            self.destination.to_string(),
            self.new_source.to_string(),
            self.new_destination.to_string(),
            self.kind.clone(),
            self.state.to_owned(),
            format!("{}s", self.idle_seconds),
        ]
    }
}

/// Lists flows.
///
/// # Errors
/// The maps cannot be read.
pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    let now = flows::now()?;
    let mut entries = Vec::new();
    for table in &maps()?.flows {
        let main = |_, entry: FlowEntry| {
            if !entry.is_alias() {
                entries.push(entry);
            }
        };
        table.visit(main).context("cannot read the flows")?;
    }
    print_rows(output, "flows", &rows(&entries, args.address, now))
}

/// One row per flow.
fn rows(entries: &[FlowEntry], address: Option<IpAddr>, now: u32) -> Vec<FlowRow> {
    let address = address.map(Addr::from);
    let mut rows: Vec<FlowRow> = entries
        .iter()
        .filter(|entry| {
            let ends = [entry.tuple.src, entry.tuple.dst, entry.other.src, entry.other.dst];
            address.is_none_or(|address| ends.contains(&address))
        })
        .map(|entry| FlowRow::new(entry, now))
        .collect();
    rows.sort_by_key(|row| (row.source, row.destination));
    rows
}

#[cfg(test)]
mod tests {
    use sluice_abi::{FlowKey, PortBe, flow_flags};

    use super::*;

    fn tuple(src: &str, dst: &str) -> FlowKey {
        let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
        FlowKey {
            src: src.ip().into(),
            dst: dst.ip().into(),
            sport: PortBe::new(src.port()),
            dport: PortBe::new(dst.port()),
            proto: proto::TCP,
            ..FlowKey::default()
        }
    }

    fn example(address: Option<&str>) -> Vec<String> {
        let entry = |other, tuple, kind: FlowKind, flags| FlowEntry {
            tuple,
            other,
            kind: kind as u8,
            flags,
            seen: 10,
            ..FlowEntry::default()
        };
        let direct = tuple("10.244.1.3:1", "10.244.2.2:80");
        let entries = [
            entry(
                tuple("10.244.1.9:1000", "1.1.1.1:53"),
                tuple("172.18.0.2:61000", "1.1.1.1:53"),
                FlowKind::Masquerade,
                0,
            ),
            entry(
                tuple("10.244.1.7:2000", "10.96.0.1:80"),
                tuple("172.18.0.2:61001", "10.244.2.2:8080"),
                FlowKind::MasqueradedService,
                flow_flags::REPLIED,
            ),
            entry(direct, direct, FlowKind::Direct, flow_flags::REPLIED),
        ];
        let rows = rows(&entries, address.map(|a| a.parse().unwrap()), 15);
        rows.iter().map(|row| row.cells().join(" ")).collect()
    }

    #[test]
    fn flows_are_listed_in_the_direction_of_their_first_packet() {
        assert_eq!(
            example(None),
            [
                "TCP 10.244.1.3:1 10.244.2.2:80 10.244.1.3:1 10.244.2.2:80 direct replied 5s",
                "TCP 10.244.1.7:2000 10.96.0.1:80 172.18.0.2:61001 10.244.2.2:8080 \
                 service+masquerade replied 5s",
                "TCP 10.244.1.9:1000 1.1.1.1:53 172.18.0.2:61000 1.1.1.1:53 masquerade unreplied 5s",
            ]
        );
    }

    #[test]
    fn address_matches_either_end_before_or_after_translation() {
        for (address, count) in [
            ("10.96.0.1", 1),
            ("10.244.2.2", 2),
            ("172.18.0.2", 2),
            ("1.1.1.1", 1),
            ("10.244.1.9", 1),
            ("8.8.8.8", 0),
        ] {
            assert_eq!(example(Some(address)).len(), count, "{address}");
        }
    }

    #[test]
    fn state_is_that_of_both_sides() {
        use tcp_state::{FIN, OPEN, RESET};

        let state_of = |tcp, flags| {
            let tuple = tuple("10.0.0.1:1", "10.0.0.2:2");
            state(&FlowEntry { tuple, tcp, flags, ..FlowEntry::default() })
        };
        for (tcp, flags, expected) in [
            ([OPEN, 0], 0, "unreplied"),
            ([OPEN, OPEN], flow_flags::REPLIED, "replied"),
            ([FIN, OPEN], flow_flags::REPLIED, "half-closed"),
            ([FIN, FIN], flow_flags::REPLIED, "closed"),
            ([OPEN, RESET], flow_flags::REPLIED, "reset"),
        ] {
            assert_eq!(state_of(tcp, flags), expected);
        }
    }
}
