//! `sluice status`: state of this node.

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;
use sluice_abi::{Addr, NodeConfig, node_flags};

use super::output::{Output, align, print_json, print_text};
use super::{maps, rows_of_agent};
use crate::api::{Condition, DeviceRow, Request, Status};
use crate::kernel::linux::maps::Maps;
use crate::kernel::linux::sizes;
use crate::kernel::read_counters;
use crate::watches::Watch;

/// State of the node, and whether the agent reported it.
#[derive(Debug, Serialize)]
struct Report {
    agent: bool,
    #[serde(flatten)]
    status: Status,
}

impl Report {
    fn succeeds(&self) -> bool {
        self.status.ready && self.status.conditions.is_empty()
    }

    fn text(&self) -> String {
        let s = &self.status;
        let mut lines: Vec<Vec<String>> = Vec::new();
        let mut line = |name: &str, value: String| {
            if !value.is_empty() {
                lines.push(vec![format!("{name}:"), value]);
            }
        };
        line(
            "Agent",
            if self.agent {
                format!("running, version {} (revision {})", s.version, s.revision)
            } else {
                "not running".into()
            },
        );
        line("Node", s.node.clone());
        line("Ready", if s.ready { "yes" } else { "no" }.into());
        line("Source", s.source.clone());
        let mtu = s.mtu.map(|mtu| format!("MTU {mtu}"));
        let address = s.address.map(|a| a.to_string());
        let uplink: Vec<String> = [s.uplink.clone(), address, mtu].into_iter().flatten().collect();
        line("Uplink", uplink.join("  "));
        for device in &s.devices {
            line(&format!("Device {}", device.name), device_text(device));
        }
        line(
            "Pod CIDRs",
            s.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        );
        for (table, rows) in &s.tables {
            line(&format!("Table {table}"), rows.to_string());
        }
        for (map, entries) in &s.capacity {
            line(&format!("Capacity {map}"), entries.to_string());
        }
        for c in s.counters.iter().filter(|c| c.packets > 0) {
            line(&format!("Packets {} {}", c.kind, c.label), c.packets.to_string());
        }
        for watch in &s.watches {
            line(&format!("Watch {}", watch.kind), watch_text(watch));
        }
        line("Policies", s.policies.clone());
        for condition in &s.conditions {
            line(&format!("Condition {}", condition.kind), condition_text(condition));
        }
        align(&lines)
    }
}

/// Status, age and message of a condition.
fn condition_text(condition: &Condition) -> String {
    let Condition { status, seconds, message, .. } = condition;
    if status.is_empty() {
        return message.clone();
    }
    format!("{} for {seconds} s: {message}", status.to_lowercase())
}

/// Programs, address and MTU of a device.
fn device_text(device: &DeviceRow) -> String {
    let address = device.address.map(|a| format!(", address {a}")).unwrap_or_default();
    let xdp = device.xdp.as_ref().map(|xdp| format!(", XDP {xdp}")).unwrap_or_default();
    format!("programs {}{address}, MTU {}{xdp}", device.programs, device.mtu)
}

/// State and age of a watch.
fn watch_text(watch: &Watch) -> String {
    if watch.not_served {
        return "not served by the API server".to_owned();
    }
    let synced = if watch.synced { "synced" } else { "not synced" };
    let idle = watch.idle_seconds.map(|s| format!("last data {s} s ago"));
    let failing = watch.failing_seconds.map(|s| {
        format!("failing for {s} s: {}", watch.error.as_deref().unwrap_or("unknown error"))
    });
    [Some(synced.to_owned()), idle, failing].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Prints the state of this node; the exit code is 0 if it is ready and no condition is set.
///
/// # Errors
/// Neither the agent nor the maps can be read.
pub fn run(socket: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let report = match rows_of_agent(socket, &Request::Status {})? {
        Some(rows) => Report {
            agent: true,
            status: rows.into_iter().next().context("response of the agent has no row")?,
        },
        None => Report { agent: false, status: status_of_kernel(&maps()?)? },
    };
    match output {
        Output::Json => print_json(&report)?,
        Output::Text => print_text(&report.text())?,
    }
    Ok(if report.succeeds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn status_of_kernel(maps: &Maps) -> anyhow::Result<Status> {
    let config = maps.node_config.lookup(&0)?.unwrap_or_default();
    let tables = [
        ("frontends", maps.frontends.entries()?.len()),
        ("services", maps.services.entries()?.len()),
        ("backends", maps.backends.entries()?.len()),
        ("networks", maps.networks.entries()?.len()),
        ("pods", maps.local_pods.entries()?.len()),
    ];
    Ok(Status {
        tables: tables.into_iter().map(|(table, rows)| (table.to_owned(), rows)).collect(),
        capacity: sizes::pinned()?.growing().map(|(map, n)| (map.to_owned(), n)).collect(),
        counters: read_counters(&maps.counters)?,
        ..without_agent(&config)
    })
}

/// State that the node configuration of the programs shows.
fn without_agent(config: &NodeConfig) -> Status {
    let known = |addr: Addr| (addr != Addr::UNSPECIFIED).then(|| IpAddr::from(addr));
    Status {
        ready: config.flags & node_flags::READY != 0,
        address: config.addrs.into_iter().find_map(known),
        mtu: (config.mtu != 0).then_some(config.mtu),
        conditions: vec![Condition {
            kind: "Agent".to_owned(),
            status: String::new(),
            seconds: 0,
            message: "not running; the maps that it wrote last stay in force".to_owned(),
        }],
        ..Status::default()
    }
}

#[cfg(test)]
mod tests {
    use sluice_abi::Family;

    use super::*;
    use crate::counters::Count;

    fn report() -> Report {
        let count = |label: &str, packets| Count {
            kind: "drop".to_owned(),
            label: label.to_owned(),
            packets,
            bytes: packets * 100,
        };
        Report {
            agent: true,
            status: Status {
                version: "0.1.0".to_owned(),
                revision: "1f2e3d4c5b6a".to_owned(),
                node: "worker".to_owned(),
                source: "API server".to_owned(),
                ready: true,
                synced: true,
                uplink: Some("eth0".to_owned()),
                address: Some("172.18.0.3".parse().unwrap()),
                mtu: Some(1500),
                devices: vec![
                    DeviceRow {
                        name: "eth0".to_owned(),
                        programs: "ethernet".to_owned(),
                        xdp: Some("native".to_owned()),
                        address: Some("172.18.0.3".parse().unwrap()),
                        mtu: 1500,
                    },
                    DeviceRow {
                        name: "eth1".to_owned(),
                        programs: "none".to_owned(),
                        xdp: None,
                        address: None,
                        mtu: 9000,
                    },
                ],
                pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
                tables: [("frontends".to_owned(), 3)].into(),
                capacity: [("FRONTENDS".to_owned(), 32_768)].into(),
                conditions: Vec::new(),
                policies: String::new(),
                watches: vec![
                    Watch {
                        kind: "Node".to_owned(),
                        synced: true,
                        idle_seconds: Some(12),
                        ..Watch::default()
                    },
                    Watch {
                        kind: "Service".to_owned(),
                        failing_seconds: Some(3),
                        error: Some("refused".to_owned()),
                        failures: 2,
                        ..Watch::default()
                    },
                    Watch {
                        kind: "ServiceCIDR".to_owned(),
                        synced: true,
                        not_served: true,
                        ..Watch::default()
                    },
                ],
                counters: vec![count("spoofed_source", 7), count("no_route", 0)],
            },
        }
    }

    #[test]
    fn text_has_one_line_per_fact_and_no_zero_counters() {
        assert_eq!(
            report().text(),
            "\
Agent:                         running, version 0.1.0 (revision 1f2e3d4c5b6a)
Node:                          worker
Ready:                         yes
Source:                        API server
Uplink:                        eth0  172.18.0.3  MTU 1500
Device eth0:                   programs ethernet, address 172.18.0.3, MTU 1500, XDP native
Device eth1:                   programs none, MTU 9000
Pod CIDRs:                     10.244.1.0/24
Table frontends:               3
Capacity FRONTENDS:            32768
Packets drop spoofed_source:   7
Watch Node:                    synced, last data 12 s ago
Watch Service:                 not synced, failing for 3 s: refused
Watch ServiceCIDR:             not served by the API server
"
        );
    }

    #[test]
    fn json_has_the_same_facts() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["agent"], true);
        assert_eq!(json["revision"], "1f2e3d4c5b6a");
        assert_eq!(json["address"], "172.18.0.3");
        assert_eq!(json["tables"]["frontends"], 3);
        assert_eq!(json["capacity"]["FRONTENDS"], 32_768);
        assert_eq!(json["watches"][1]["failingSeconds"], 3);
        assert_eq!(json["counters"][0]["label"], "spoofed_source");
    }

    #[test]
    fn exit_code_needs_readiness_and_no_condition() {
        assert!(report().succeeds());
        let mut not_ready = report();
        not_ready.status.ready = false;
        assert!(!not_ready.succeeds());
        let mut mistaken = report();
        mistaken.status.policies = "NetworkPolicy shop/db: egress[0]: mistake".to_owned();
        assert!(mistaken.succeeds(), "the object of a user does not fail a node");
        assert!(mistaken.text().contains("egress[0]: mistake"));
        let mut failing = report();
        failing.status.conditions = without_agent(&NodeConfig::default()).conditions;
        assert!(!failing.succeeds());
        assert!(failing.text().ends_with(
            "Condition Agent:               not running; the maps that it wrote last stay in force\n"
        ));
    }

    #[test]
    fn node_configuration_shows_readiness_address_and_mtu() {
        let empty = without_agent(&NodeConfig::default());
        assert_eq!((empty.ready, empty.address, empty.mtu), (false, None, None));
        let address: IpAddr = "fd00::3".parse().unwrap();
        let mut config =
            NodeConfig { flags: node_flags::READY, mtu: 9000, ..NodeConfig::default() };
        config.addrs[Family::V6 as usize] = address.into();
        let status = without_agent(&config);
        assert_eq!((status.ready, status.address, status.mtu), (true, Some(address), Some(9000)));
    }
}
