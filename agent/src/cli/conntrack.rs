//! `sluice conntrack`: translated connections.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use serde::Serialize;
use sluice_abi::{Addr, Direction, FlowEntry, FlowKey, FlowKind};
use sluice_core::dump;

use super::maps;
use super::output::{Output, TableRow, print_rows};

const UPTIME: &str = "/proc/uptime";

/// Flags of `sluice conntrack`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Show only connections with this address, before or after translation.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
}

/// A connection in the direction of its first packet.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FlowRow {
    protocol: String,
    source: SocketAddr,
    destination: SocketAddr,
    new_source: SocketAddr,
    new_destination: SocketAddr,
    kind: String,
    idle_seconds: u64,
}

impl FlowRow {
    fn new(key: &FlowKey, entry: &FlowEntry, now_ns: u64) -> FlowRow {
        let translated = &entry.translated;
        FlowRow {
            protocol: dump::protocol(key.proto),
            source: dump::socket_address(key.src, key.sport),
            destination: dump::socket_address(key.dst, key.dport),
            new_source: dump::socket_address(translated.src, translated.sport),
            new_destination: dump::socket_address(translated.dst, translated.dport),
            kind: entry.kind().map_or("unknown", FlowKind::label).to_owned(),
            idle_seconds: now_ns.saturating_sub(entry.last_seen_ns) / 1_000_000_000,
        }
    }
}

impl TableRow for FlowRow {
    const HEADER: &'static [&'static str] =
        &["PROTOCOL", "SOURCE", "DESTINATION", "NEW SOURCE", "NEW DESTINATION", "NAT", "IDLE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.protocol.clone(),
            self.source.to_string(),
            self.destination.to_string(),
            self.new_source.to_string(),
            self.new_destination.to_string(),
            self.kind.clone(),
            format!("{}s", self.idle_seconds),
        ]
    }
}

/// Lists translated connections.
///
/// # Errors
/// The maps or the uptime cannot be read.
pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(UPTIME).context(UPTIME)?;
    let now_ns = uptime_ns(&text).with_context(|| format!("{UPTIME} is not valid: {text}"))?;
    let rows = rows(maps()?.conntrack.entries()?, args.address, now_ns);
    print_rows(output, "connections", &rows)
}

/// One row per connection: of its two entries, the one of the direction that opened it.
fn rows(entries: Vec<(FlowKey, FlowEntry)>, address: Option<IpAddr>, now_ns: u64) -> Vec<FlowRow> {
    let address = address.map(Addr::from);
    let has_address = |key: &FlowKey| address.is_none_or(|a| key.src == a || key.dst == a);
    let mut rows: Vec<FlowRow> = entries
        .iter()
        .filter(|(_, entry)| entry.direction() == Some(Direction::Forward))
        .filter(|(key, entry)| has_address(key) || has_address(&entry.translated))
        .map(|(key, entry)| FlowRow::new(key, entry, now_ns))
        .collect();
    rows.sort_by_key(|row| (row.source, row.destination));
    rows
}

/// Nanoseconds since boot, from the text of /proc/uptime.
fn uptime_ns(text: &str) -> Option<u64> {
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some((seconds * 1e9) as u64)
}

#[cfg(test)]
mod tests {
    use sluice_abi::{PortBe, proto};

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
        let entry = |translated: FlowKey, kind: FlowKind, direction: Direction| FlowEntry {
            translated,
            kind: kind as u8,
            direction: direction as u8,
            last_seen_ns: 3_000_000_000,
            ..FlowEntry::default()
        };
        let entries = vec![
            (
                tuple("10.244.1.9:1000", "1.1.1.1:53"),
                entry(
                    tuple("172.18.0.2:61000", "1.1.1.1:53"),
                    FlowKind::Masquerade,
                    Direction::Forward,
                ),
            ),
            (
                tuple("10.244.1.7:2000", "10.96.0.1:80"),
                entry(
                    tuple("172.18.0.2:61001", "10.244.2.2:8080"),
                    FlowKind::MasqueradedService,
                    Direction::Forward,
                ),
            ),
            (
                tuple("10.244.2.2:8080", "172.18.0.2:61001"),
                entry(
                    tuple("10.96.0.1:80", "10.244.1.7:2000"),
                    FlowKind::MasqueradedService,
                    Direction::Reply,
                ),
            ),
        ];
        let address = address.map(|a| a.parse().unwrap());
        rows(entries, address, 10_999_999_999).iter().map(|r| r.cells().join(" ")).collect()
    }

    #[test]
    fn connection_is_listed_once_in_the_direction_that_opened_it() {
        assert_eq!(
            example(None),
            [
                "TCP 10.244.1.7:2000 10.96.0.1:80 172.18.0.2:61001 10.244.2.2:8080 service+masquerade 7s",
                "TCP 10.244.1.9:1000 1.1.1.1:53 172.18.0.2:61000 1.1.1.1:53 masquerade 7s",
            ]
        );
    }

    #[test]
    fn address_is_compared_before_and_after_translation() {
        for (address, count) in [
            ("10.244.1.9", 1),
            ("10.96.0.1", 1),
            ("10.244.2.2", 1),
            ("172.18.0.2", 2),
            ("10.96.0.2", 0),
        ] {
            assert_eq!(example(Some(address)).len(), count, "{address}");
        }
    }

    #[test]
    fn uptime_is_the_first_number() {
        assert_eq!(uptime_ns("12.50 99.00\n"), Some(12_500_000_000));
        assert_eq!(uptime_ns(""), None);
    }
}
