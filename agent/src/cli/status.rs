//! `sluice status`.

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use sluice_abi::{Addr, node_flags};

use super::{ask_agent, maps};
use crate::api::{Request, Status};
use crate::cli::{Output, print_json};
use crate::dataplane::counters;

/// `sluice status`. The exit code says whether pods can be wired.
pub fn status(socket: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let (agent, status) = match ask_agent::<Status>(socket, &Request::Status) {
        Some(status) => (true, status),
        None => (false, status_of_kernel()?),
    };
    match output {
        Output::Json => {
            let mut value = serde_json::to_value(&status)?;
            value["agent"] = agent.into();
            print_json(&value)?;
        }
        Output::Text => print!("{}", status_text(agent, &status)),
    }
    Ok(if status.ready && status.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What can be told without the agent.
fn status_of_kernel() -> anyhow::Result<Status> {
    let maps = maps()?;
    let config = maps.node_config.lookup(&0)?.unwrap_or_default();
    let known = |a: Addr| (a != Addr::UNSPECIFIED).then(|| IpAddr::from(a).to_string());
    Ok(Status {
        ready: config.flags & node_flags::READY != 0,
        address: known(config.addrs[0]),
        mtu: (config.mtu != 0).then_some(config.mtu),
        tables: vec![
            ("frontends".to_owned(), maps.frontends.entries()?.len()),
            ("backends".to_owned(), maps.backends.entries()?.len()),
            ("networks".to_owned(), maps.networks.entries()?.len()),
            ("endpoints".to_owned(), maps.local_pods.entries()?.len()),
        ],
        problems: vec!["the agent does not answer; what it wrote last stays in force".to_owned()],
        counters: counters::read(&maps.counters)?,
        ..Status::default()
    })
}

fn status_text(agent: bool, s: &Status) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            rows.push(vec![name.to_owned(), value]);
        }
    };
    let away = || "away".to_owned();
    row("agent", if agent { format!("running, version {}", s.version) } else { away() });
    row("node", s.node.clone());
    row("ready", if s.ready { "yes" } else { "no" }.to_owned());
    row("source", s.source.clone());
    row(
        "uplink",
        [s.uplink.clone(), s.address.clone(), s.mtu.map(|m| format!("mtu {m}"))]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("  "),
    );
    row("pods", s.pod_cidrs.join(" "));
    for (table, n) in &s.tables {
        row(table, n.to_string());
    }
    for c in s.counters.iter().filter(|c| c.packets > 0) {
        row(&format!("{} {}", c.kind, c.label), c.packets.to_string());
    }
    for problem in &s.problems {
        row("problem", problem.clone());
    }
    align_pairs(&rows)
}

fn align_pairs(rows: &[Vec<String>]) -> String {
    let width = rows.iter().filter_map(|r| r.first()).map(|c| c.chars().count()).max().unwrap_or(0);
    rows.iter()
        .map(|r| {
            format!("{:<width$}  {}\n", r.first().map_or("", |c| c), r.get(1).map_or("", |c| c))
        })
        .collect()
}
