//! `sluice drops`: dropped packets and, for policies, why.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Context;

use super::ask;
use super::output::{Output, print_json, print_text};
use crate::api::{DropRow, Request};

/// Time between two questions with `--follow`.
const INTERVAL: Duration = Duration::from_millis(500);

/// Flags of `sluice drops`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Show further drops as they come.
    #[arg(short, long)]
    follow: bool,
    /// Show only drops whose line contains this text: a pod, an address, a reason, a policy.
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
}

/// Prints the last drops, and further ones.
///
/// # Errors
/// The agent does not answer.
pub fn run(socket: &Path, args: &Args, output: Output) -> anyhow::Result<()> {
    let mut from = 0;
    loop {
        let mut rows: Vec<DropRow> = ask(socket, &Request::Drops { from })?;
        from = rows.last().map_or(from, |last| last.sequence + 1);
        rows.retain(|row| args.filter.as_deref().is_none_or(|text| line(row).contains(text)));
        match output {
            Output::Json if !args.follow => print_json(&rows)?,
            Output::Json => {
                for row in &rows {
                    let json = serde_json::to_string(row).context("JSON of a row")?;
                    print_text(&format!("{json}\n"))?;
                }
            }
            Output::Text => print_text(&rows.iter().map(line).collect::<String>())?,
        }
        if !args.follow {
            return Ok(());
        }
        thread::sleep(INTERVAL);
    }
}

/// A drop in a line, with a line for each reason.
fn line(row: &DropRow) -> String {
    let DropRow { at, reason, protocol, .. } = row;
    let end = |address: std::net::IpAddr, port: u16| match port {
        0 => address.to_string(),
        port => std::net::SocketAddr::new(address, port).to_string(),
    };
    let source = end(row.source, row.source_port);
    let destination = end(row.destination, row.destination_port);
    let mut text = format!("{at} {reason} {protocol} {source} -> {destination}");
    if let Some(pod) = &row.pod {
        text.push_str(&format!(", pod {pod}"));
    }
    if !row.peers.is_empty() {
        text.push_str(&format!(", peer {}", row.peers.join(", ")));
    }
    if !row.policies.is_empty() {
        text.push_str(&format!(", isolated by {}", row.policies.join(", ")));
    }
    text.push('\n');
    for reason in &row.reasons {
        text.push_str(&format!("  {reason}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_by_policy_is_shown_with_pods_policies_and_reasons() {
        let row = DropRow {
            sequence: 1,
            at: "2026-01-01T00:00:00.000Z".to_owned(),
            reason: "policy_ingress".to_owned(),
            protocol: "TCP".to_owned(),
            source: "10.244.2.9".parse().unwrap(),
            source_port: 40_000,
            destination: "10.244.1.7".parse().unwrap(),
            destination_port: 5432,
            pod: Some("shop/db-0".to_owned()),
            direction: Some(crate::api::Direction::Ingress),
            peers: vec!["lab/far".to_owned()],
            policies: vec!["shop/db".to_owned()],
            reasons: vec!["because".to_owned()],
        };
        assert_eq!(
            line(&row),
            "2026-01-01T00:00:00.000Z policy_ingress TCP 10.244.2.9:40000 -> 10.244.1.7:5432, \
             pod shop/db-0, peer lab/far, isolated by shop/db\n  because\n"
        );
    }
}
