//! `cargo xtask bench scale`: the agent with many Services, and with many policies, on one node of the namespace
//! tests, with an API server in memory. Prints tables of the figures and their aims.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::isolated;
use crate::cache::Cache;
use crate::{build, setup};

/// Deadline of one size: filling the API server takes most of it.
const STEP: Duration = Duration::from_secs(300);

/// Services, endpoints per Service, changes, and whether they have external frontends.
const SIZES: [[&str; 4]; 4] = [
    ["1", "1", "400", "0"],
    ["10000", "10", "400", "0"],
    ["50000", "5.2", "400", "0"],
    ["50000", "5.2", "400", "1"],
];

/// Pods, policies, and rules of one further policy.
const POLICIES: [&str; 3] = ["5000", "1000", "12500"];

/// Aim of policies: seconds from the last list, or from the change, until all rows are written.
const POLICIES_PROGRAMMED: f64 = 1.0;

/// Aim with external frontends: at most this, times the figure without them.
const EXTERNAL: &str = "1.5 times";

/// A figure: name, field of the report, divisor, decimal places, and the aim at each size.
const FIGURES: [(&str, &str, f64, usize, [&str; 4]); 8] = [
    ("start to programmed, s", "programmed_s", 1.0, 2, ["", "", "1.2", EXTERNAL]),
    ("memory, peak, MiB", "rss_peak_kib", 1024.0, 1, ["", "", "", ""]),
    ("memory after the lists, MiB", "rss_after_list_kib", 1024.0, 1, ["", "50", "150", EXTERNAL]),
    ("memory after the changes, MiB", "rss_steady_kib", 1024.0, 1, ["", "50", "150", EXTERNAL]),
    ("memory of the maps, MiB", "maps_kib", 1024.0, 1, ["24", "", "", ""]),
    ("change to map, median, ms", "latency_p50_ms", 1.0, 2, ["", "", "", ""]),
    ("change to map, p99, ms", "latency_p99_ms", 1.0, 2, ["3", "3", "3", "3"]),
    ("cores at 20 changes a second", "cpu_cores", 1.0, 4, ["0.005", "0.005", "0.005", ""]),
];

/// Measures each size and prints the table.
///
/// # Errors
/// When a build or a measurement fails.
pub fn run(cache: &Cache) -> Result<ExitCode> {
    setup::require_root()?;
    setup::tests()?;
    let programs = build::programs(cache)?;
    let bench = build::static_program(cache, "netns-tests", "netns-scale", "release")?;
    let mut reports = Vec::new();
    for arguments in SIZES {
        reports.push(isolated::report(&bench, &arguments, programs.environment(), STEP)?);
    }
    let bench = build::static_program(cache, "netns-tests", "policy-scale-bench", "release")?;
    let policies = isolated::report(&bench, &POLICIES, programs.environment(), STEP)?;
    print!("{}\n{}", table(&reports), policy_table(&policies));
    Ok(ExitCode::SUCCESS)
}

/// One row per state of the policies.
fn policy_table(report: &Value) -> String {
    let aim = POLICIES_PROGRAMMED;
    let mut text = format!(
        "| policies | programmed, s ({aim}) | classes | ranges | rows of tables | sets of ports |\n\
         |---|---|---|---|---|---|\n"
    );
    let names = [
        format!(
            "{} policies, {} Pods, {} of them on the node, at the start",
            report["policies"], report["pods"], report["local_pods"]
        ),
        format!("further one with {} rules, of one pod", report["rules"]),
    ];
    for (name, state) in names.iter().zip(["all", "many"]) {
        let seconds = report[format!("{state}_s")].as_f64().unwrap_or(f64::NAN);
        text.push_str(&format!("| {name} | {seconds:.3} |"));
        for table in ["policy_classes", "policy_networks", "policy_peers", "policy_ports"] {
            text.push_str(&format!(" {} |", report[format!("{state}_rows")][table]));
        }
        text.push('\n');
    }
    text
}

/// One row per figure, one column per size; the aim in parentheses.
fn table(reports: &[Value]) -> String {
    let heads = reports.iter().map(|r| {
        let kind = if r["external"] == true { ", load balancers and NodePorts" } else { "" };
        format!(" {} Services, {} endpoints{kind} |", r["services"], r["endpoints"])
    });
    let mut text = format!("| figure (aim) |{}\n", heads.collect::<String>());
    text.push_str(&format!("|---|{}\n", "---|".repeat(reports.len())));
    for (name, field, divisor, places, aims) in FIGURES {
        text.push_str(&format!("| {name} |"));
        for (report, aim) in reports.iter().zip(aims) {
            let value = report[field].as_f64().unwrap_or(f64::NAN) / divisor;
            let aim = if aim.is_empty() { String::new() } else { format!(" ({aim})") };
            text.push_str(&format!(" {value:.places$}{aim} |"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_in_columns_beside_their_aims() {
        let report = serde_json::json!({"services": 1, "endpoints": 2, "rss_steady_kib": 2048});
        let mut external = report.clone();
        external["external"] = serde_json::json!(true);
        let text = table(&[report, external]);
        let heads =
            "| figure (aim) | 1 Services, 2 endpoints | 1 Services, 2 endpoints, load balancers";
        assert!(text.starts_with(heads), "{text}");
        assert!(text.contains("| memory after the changes, MiB | 2.0 | 2.0 (50) |\n"), "{text}");
    }

    #[test]
    fn policies_have_a_row_at_the_start_and_one_with_many_rules() {
        let text = policy_table(&serde_json::json!({
            "pods": 90, "local_pods": 2, "policies": 7, "rules": 100, "all_s": 0.0251, "many_s": 0.5,
            "all_rows": {"policy_classes": 1, "policy_networks": 2, "policy_peers": 3, "policy_ports": 4},
            "many_rows": {"policy_classes": 5, "policy_networks": 6, "policy_peers": 7, "policy_ports": 8},
        }));
        let rows: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| 7 policies, 90 Pods, 2 of them on the node, at the start | 0.025 | 1 | 2 | 3 | 4 |",
                "| further one with 100 rules, of one pod | 0.500 | 5 | 6 | 7 | 8 |",
            ]
        );
    }
}
