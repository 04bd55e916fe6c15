//! `sluice conntrack`: the flows of pods and of Services.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use sluice_abi::{Addr, FlowEntry, FlowKind, flow_flags, proto, tcp_state, tick_seconds};
use sluice_core::dump;
use sluice_packet::lifetime;

use super::output::{Output, TableRow, print_rows};
use super::{ask, maps};
use crate::api::{FlowEnds, FlowPolicyRow, JudgedEnd, Request};
use crate::flows;

/// Flags of `sluice conntrack`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Show only flows with this address, before or after translation.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// Also show, for each end that is a pod of this node, the rule that allows the flow under the current
    /// policies. Requires a running agent.
    #[arg(long)]
    policy: bool,
}

/// Columns of a flow; the last two are those of [`JudgedRow`].
const COLUMNS: &[&str] = &[
    "PROTOCOL",
    "SOURCE",
    "DESTINATION",
    "NEW SOURCE",
    "NEW DESTINATION",
    "KIND",
    "STATE",
    "IDLE",
    "EGRESS RULE",
    "INGRESS RULE",
];

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
    const HEADER: &'static [&'static str] = COLUMNS.split_at(8).0;

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

/// A flow and what policies decide about it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct JudgedRow {
    #[serde(flatten)]
    flow: FlowRow,
    /// A process of this node has opened the flow: policies of its pods do not apply.
    of_node: bool,
    #[serde(flatten)]
    policy: FlowPolicyRow,
}

impl JudgedRow {
    /// The rule that allows the flow at one end.
    fn end(&self, end: Option<&JudgedEnd>) -> String {
        let Some(JudgedEnd { verdict, .. }) = end else {
            return if self.of_node { "node" } else { "-" }.to_owned();
        };
        match &verdict.rule {
            _ if !verdict.allowed => "denied".to_owned(),
            Some(rule) => format!("{}[{}]", rule.policy, rule.rule),
            None => "not isolated".to_owned(),
        }
    }
}

impl TableRow for JudgedRow {
    const HEADER: &'static [&'static str] = COLUMNS;

    fn cells(&self) -> Vec<String> {
        let ends = [&self.policy.egress, &self.policy.ingress];
        let ends = ends.map(|end| self.end(end.as_ref()));
        self.flow.cells().into_iter().chain(ends).collect()
    }
}

/// Lists flows.
///
/// # Errors
/// The maps cannot be read, or the agent does not respond.
pub fn run(args: &Args, socket: &Path, output: Output) -> anyhow::Result<()> {
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
    let entries = select(entries, args.address);
    if !args.policy {
        let rows: Vec<_> = entries.iter().map(|entry| FlowRow::new(entry, now)).collect();
        return print_rows(output, "flows", &rows);
    }
    let mut verdicts = BTreeMap::new();
    let rows = entries.iter().map(|entry| {
        let of_node = entry.flags & flow_flags::OF_NODE != 0;
        let has_pod = !entry.client.is_none() || !entry.server.is_none();
        let policy = match has_pod && !of_node {
            true => judge(socket, entry, &mut verdicts)?,
            false => FlowPolicyRow::default(),
        };
        Ok(JudgedRow { flow: FlowRow::new(entry, now), of_node, policy })
    });
    print_rows(output, "flows", &rows.collect::<anyhow::Result<Vec<_>>>()?)
}

/// Flows that differ by the client's port only have one verdict.
type Verdicts = BTreeMap<(IpAddr, IpAddr, u8, u16), FlowPolicyRow>;

/// Asks the agent about a flow.
fn judge(
    socket: &Path,
    entry: &FlowEntry,
    verdicts: &mut Verdicts,
) -> anyhow::Result<FlowPolicyRow> {
    let server = dump::socket_address(entry.tuple.dst, entry.tuple.dport);
    let client = dump::socket_address(entry.other.src, entry.other.sport).ip();
    let (protocol, port) = (entry.tuple.proto, server.port());
    let key = (client, server.ip(), protocol, port);
    if let Some(row) = verdicts.get(&key) {
        return Ok(row.clone());
    }
    let flow = FlowEnds { client, server: server.ip(), protocol, port };
    let rows: Vec<FlowPolicyRow> = ask(socket, &Request::JudgeFlow(flow))?;
    let row = rows.into_iter().next().context("the agent sent no row")?;
    verdicts.insert(key, row.clone());
    Ok(row)
}

/// The flows with an address, in order.
fn select(mut entries: Vec<FlowEntry>, address: Option<IpAddr>) -> Vec<FlowEntry> {
    let address = address.map(Addr::from);
    entries.retain(|entry| {
        let ends = [entry.tuple.src, entry.tuple.dst, entry.other.src, entry.other.dst];
        address.is_none_or(|address| ends.contains(&address))
    });
    let socket = dump::socket_address;
    entries.sort_by_key(|FlowEntry { other, .. }| {
        (socket(other.src, other.sport), socket(other.dst, other.dport))
    });
    entries
}

#[cfg(test)]
mod tests {
    use sluice_abi::{FlowKey, PortBe};

    use super::*;
    use crate::api::{RuleRef, VerdictRow};

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
        let entries = select(entries.to_vec(), address.map(|a| a.parse().unwrap()));
        entries.iter().map(|entry| FlowRow::new(entry, 15).cells().join(" ")).collect()
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
    fn judged_flow_has_the_rule_of_each_end() {
        let entry = FlowEntry { tuple: tuple("10.0.0.1:1", "10.0.0.2:2"), ..FlowEntry::default() };
        let end = |allowed, rule: Option<(&str, usize)>| {
            let rule = rule.map(|(policy, rule)| RuleRef { policy: policy.to_owned(), rule });
            let verdict = VerdictRow { allowed, rule, ..VerdictRow::default() };
            Some(JudgedEnd { pod: "shop/db".to_owned(), verdict })
        };
        let cells = |of_node, egress, ingress| {
            let policy = FlowPolicyRow { egress, ingress };
            let row = JudgedRow { flow: FlowRow::new(&entry, 15), of_node, policy };
            let cells = row.cells();
            assert_eq!(cells.len(), JudgedRow::HEADER.len());
            cells[8..].join(" | ")
        };
        let allowed = end(true, Some(("shop/db", 1)));
        assert_eq!(cells(false, end(true, None), allowed), "not isolated | shop/db[1]");
        assert_eq!(cells(false, end(false, None), None), "denied | -");
        assert_eq!(cells(true, None, None), "node | node");
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
