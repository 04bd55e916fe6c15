//! The commands that only look.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::Serialize;
use sluice_abi::{Addr, FlowKey, Frontend, flow_flags, frontend_flags, node_flags, proto};

use super::table::align;
use super::{Output, print_json};
use crate::control::{Request, ServiceRow, Status, ask};
use crate::dataplane::counters;
use crate::dataplane::maps::Maps;

/// Flags of `sluice service`.
#[derive(clap::Args, Debug)]
pub struct ServiceArgs {
    /// Only Services whose `namespace/name` or address contains this.
    filter: Option<String>,
}

/// Flags of `sluice endpoint`.
#[derive(clap::Args, Debug)]
pub struct EndpointArgs {
    /// Only pods whose address, device or name contains this.
    filter: Option<String>,
    /// Where the CNI binary keeps its leases.
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/sluice/cni")]
    cni_state_dir: std::path::PathBuf,
}

/// Flags of `sluice conntrack`.
#[derive(clap::Args, Debug)]
pub struct ConntrackArgs {
    /// Only flows from, to or by way of this address.
    #[arg(long)]
    address: Option<IpAddr>,
}

fn maps() -> anyhow::Result<Maps> {
    Maps::open().context("read the kernel's tables: was the dataplane ever loaded here?")
}

fn ask_agent<T: serde::de::DeserializeOwned>(socket: &Path, request: &Request) -> Option<T> {
    let answer = ask(socket, request).ok()?;
    serde_json::from_str(&answer).ok()
}

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
        address: known(config.node_v4),
        mtu: (config.mtu != 0).then_some(config.mtu),
        tables: vec![
            ("frontends".to_owned(), maps.frontends.entries()?.len()),
            ("backends".to_owned(), maps.backends.entries()?.len()),
            ("networks".to_owned(), maps.networks.entries()?.len()),
            ("endpoints".to_owned(), maps.endpoints.entries()?.len()),
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

/// `sluice service`.
pub fn services(socket: &Path, args: &ServiceArgs, output: Output) -> anyhow::Result<()> {
    let mut rows = match ask_agent::<Vec<ServiceRow>>(socket, &Request::Services) {
        Some(rows) => rows,
        None => services_of_kernel()?,
    };
    if let Some(filter) = &args.filter {
        rows.retain(|r| r.service.contains(filter) || r.address.contains(filter));
    }
    if output == Output::Json {
        return print_json(&rows);
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            vec![
                r.service.clone(),
                r.port_name.clone(),
                format!("{}:{}/{}", bracketed(&r.address), r.port, r.protocol),
                if r.backends.is_empty() {
                    "none: refused".to_owned()
                } else {
                    r.backends.join(" ")
                },
            ]
        })
        .collect();
    print!("{}", align(&["SERVICE", "PORT", "ADDRESS", "BACKENDS"], &cells));
    Ok(())
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

fn services_of_kernel() -> anyhow::Result<Vec<ServiceRow>> {
    let maps = maps()?;
    let mut frontends = maps.frontends.entries()?;
    frontends.retain(|(_, f)| f.flags & frontend_flags::WILDCARD == 0);
    frontends.sort_by_key(|(k, _)| *k);
    let backend = |f: &Frontend, i: u32| -> Option<String> {
        let id = maps.slots.lookup(&f.slots_offset.checked_add(i)?).ok()??;
        let b = maps.backends.lookup(&id).ok()??;
        Some(format!("{}:{}", bracketed(&IpAddr::from(b.addr).to_string()), b.port.get()))
    };
    Ok(frontends
        .into_iter()
        .map(|(k, f)| ServiceRow {
            service: "-".to_owned(),
            port_name: String::new(),
            address: IpAddr::from(k.addr).to_string(),
            port: k.port.get(),
            protocol: protocol(k.proto),
            backends: (0..f.slots_len).filter_map(|i| backend(&f, i)).collect(),
        })
        .collect())
}

fn protocol(number: u8) -> String {
    match number {
        proto::TCP => "TCP".to_owned(),
        proto::UDP => "UDP".to_owned(),
        proto::SCTP => "SCTP".to_owned(),
        proto::ICMP => "ICMP".to_owned(),
        proto::ICMPV6 => "ICMPv6".to_owned(),
        n => n.to_string(),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointRow {
    address: String,
    ifindex: u32,
    device: String,
    pod: String,
    pod_mac: String,
    container: String,
}

/// `sluice endpoint`.
pub fn endpoints(args: &EndpointArgs, output: Output) -> anyhow::Result<()> {
    let maps = maps()?;
    let leases: BTreeMap<IpAddr, crate::endpoints::Named> =
        crate::endpoints::names(&args.cni_state_dir).into_iter().map(|n| (n.address, n)).collect();
    let mut entries = maps.endpoints.entries()?;
    entries.sort_by_key(|(a, _)| *a);
    let mut rows: Vec<EndpointRow> = entries
        .into_iter()
        .map(|(addr, e)| {
            let address = IpAddr::from(addr);
            let lease = leases.get(&address);
            EndpointRow {
                address: address.to_string(),
                ifindex: e.ifindex,
                device: lease.map_or_else(|| "?".to_owned(), |l| l.device.clone()),
                pod: lease.map_or_else(|| "?".to_owned(), |l| l.pod.clone()),
                pod_mac: mac(e.pod_mac),
                container: lease.map(|l| l.container.clone()).unwrap_or_default(),
            }
        })
        .collect();
    if let Some(f) = &args.filter {
        rows.retain(|r| r.address.contains(f) || r.device.contains(f) || r.pod.contains(f));
    }
    if output == Output::Json {
        return print_json(&rows);
    }
    let cells: Vec<Vec<String>> = rows
        .into_iter()
        .map(|r| vec![r.address, r.pod, r.device, r.ifindex.to_string(), r.pod_mac])
        .collect();
    print!("{}", align(&["ADDRESS", "POD", "DEVICE", "IFINDEX", "MAC"], &cells));
    Ok(())
}

fn mac(m: [u8; 6]) -> String {
    m.map(|b| format!("{b:02x}")).join(":")
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
    let end = |a: Addr, port: u16| format!("{}:{port}", bracketed(&IpAddr::from(a).to_string()));
    let mut rows: Vec<FlowRow> = maps()?
        .conntrack
        .entries()?
        .into_iter()
        .filter(|(_, e)| e.flags & flow_flags::FORWARD != 0)
        .filter(|(k, e)| hit(k) || hit(&e.out))
        .map(|(k, e)| FlowRow {
            protocol: protocol(k.proto),
            source: end(k.src, k.sport.get()),
            destination: end(k.dst, k.dport.get()),
            new_source: end(e.out.src, e.out.sport.get()),
            new_destination: end(e.out.dst, e.out.dport.get()),
            kind: [(flow_flags::DNAT, "dnat"), (flow_flags::SNAT, "snat")]
                .iter()
                .filter(|(bit, _)| e.flags & bit != 0)
                .map(|(_, name)| *name)
                .collect::<Vec<_>>()
                .join("+"),
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

/// `sluice counters`.
pub fn counters(output: Output) -> anyhow::Result<()> {
    let counts = counters::read(&maps()?.counters)?;
    if output == Output::Json {
        return print_json(&counts);
    }
    let cells: Vec<Vec<String>> = counts
        .into_iter()
        .filter(|c| c.packets > 0)
        .map(|c| vec![c.kind, c.label, c.packets.to_string(), c.bytes.to_string()])
        .collect();
    print!("{}", align(&["KIND", "LABEL", "PACKETS", "BYTES"], &cells));
    Ok(())
}
