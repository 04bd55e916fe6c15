//! `cargo xtask bench scale`: the agent with many Services, on one node of the namespace tests, with
//! an API server in memory. Prints a table of the figures and their aims.

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
    print!("{}", table(&reports));
    Ok(ExitCode::SUCCESS)
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
}
