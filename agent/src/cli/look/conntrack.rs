//! `sluice conntrack`.

use std::net::IpAddr;

use anyhow::{Context, bail};
use serde::Serialize;
use sluice_abi::{Addr, Direction, FlowKey, FlowKind};

use super::{end, maps, protocol};
use crate::cli::table::align;
use crate::cli::{Output, print_json};

/// Flags of `sluice conntrack`.
#[derive(clap::Args, Debug)]
pub struct ConntrackArgs {
    /// Only flows from, to or by way of this address.
    #[arg(long)]
    address: Option<IpAddr>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FlowRow {
    protocol: String,
    source: String,
    destination: String,
    new_source: String,
    new_destination: String,
    kind: String,
    idle_seconds: u64,
}

/// `sluice conntrack`.
pub fn conntrack(args: &ConntrackArgs, output: Output) -> anyhow::Result<()> {
    let now = boot_nanoseconds()?;
    let wanted = args.address.map(Addr::from);
    let hit = |k: &FlowKey| wanted.is_none_or(|a| k.src == a || k.dst == a);
    let mut rows: Vec<FlowRow> = maps()?
        .conntrack
        .entries()?
        .into_iter()
        .filter(|(_, e)| e.direction() == Some(Direction::Forward))
        .filter(|(k, e)| hit(k) || hit(&e.translated))
        .map(|(k, e)| FlowRow {
            protocol: protocol(k.proto),
            source: end(k.src, k.sport),
            destination: end(k.dst, k.dport),
            new_source: end(e.translated.src, e.translated.sport),
            new_destination: end(e.translated.dst, e.translated.dport),
            kind: e.kind().map_or("unknown", FlowKind::label).to_owned(),
            idle_seconds: now.saturating_sub(e.last_seen_ns) / 1_000_000_000,
        })
        .collect();
    rows.sort_by(|a, b| a.source.cmp(&b.source).then(a.destination.cmp(&b.destination)));
    if output == Output::Json {
        return print_json(&rows);
    }
    let cells: Vec<Vec<String>> = rows
        .into_iter()
        .map(|r| {
            vec![
                r.protocol,
                r.source,
                r.destination,
                r.new_source,
                r.new_destination,
                r.kind,
                format!("{}s", r.idle_seconds),
            ]
        })
        .collect();
    let header = ["PROTOCOL", "FROM", "TO", "FROM (NEW)", "TO (NEW)", "KIND", "IDLE"];
    print!("{}", align(&header, &cells));
    Ok(())
}

fn boot_nanoseconds() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/uptime").context("/proc/uptime")?;
    let Some(seconds) = text.split_whitespace().next().and_then(|s| s.parse::<f64>().ok()) else {
        bail!("/proc/uptime: unreadable");
    };
    Ok((seconds * 1e9) as u64)
}
