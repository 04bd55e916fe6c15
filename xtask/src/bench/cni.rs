//! `cargo xtask bench cni`: bursts of CNI calls, Sluice and ptp with host-local in one run. Prints a
//! table of the figures.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::isolated;
use crate::cache::Cache;
use crate::{build, setup};

/// Deadline of the run: creating the pods takes most of it.
const STEP: Duration = Duration::from_secs(300);

/// Measures and prints the table.
///
/// # Errors
/// When a build or the measurement fails.
pub fn run(cache: &Cache, rounds: usize) -> Result<ExitCode> {
    setup::require_root()?;
    let report = bench(cache, &["bursts", &rounds.to_string()])?;
    print!("{}", table(&report));
    Ok(ExitCode::SUCCESS)
}

/// Runs `cni-add-bench` in namespaces of its own; returns its report.
///
/// # Errors
/// When a build or the measurement fails.
pub fn bench(cache: &Cache, arguments: &[&str]) -> Result<Value> {
    setup::tests()?;
    let programs = build::programs(cache)?;
    let bench = build::static_program(cache, "netns-tests", "cni-add-bench", "release")?;
    isolated::report(&bench, arguments, programs.environment(), STEP)
}

/// One row per node that was measured.
fn table(report: &Value) -> String {
    let mut text = "| 16 at once, 50 a second | ADD p50, ms | ADD p99, ms | CPU of an ADD, ms | \
                    DEL p50, ms | DEL p99, ms |\n|---|---|---|---|---|---|\n"
        .to_owned();
    let figure = |value: &Value| format!("{:.1}", value.as_f64().unwrap_or(f64::NAN));
    for node in report["subjects"].as_array().map_or(&[][..], Vec::as_slice) {
        let figures = [
            &node["add"]["p50_ms"],
            &node["add"]["p99_ms"],
            &node["cpu_ms_per_add"],
            &node["del"]["p50_ms"],
            &node["del"]["p99_ms"],
        ];
        let name = node["name"].as_str().unwrap_or_default();
        text.push_str(&format!("| {name} | {} |\n", figures.map(figure).join(" | ")));
    }
    let figures = [&report["start_p50_ms"], &report["start_p99_ms"], &report["start_cpu_ms"]];
    text.push_str(&format!("| VERSION | {} | | |\n", figures.map(figure).join(" | ")));
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_in_columns_and_the_start_of_processes_is_the_last_row() {
        let times = |p50: f64| json!({"p50_ms": p50, "p99_ms": p50 + 1.0});
        let report = json!({
            "subjects": [{"name": "a", "add": times(2.0), "cpu_ms_per_add": 1.25, "del": times(4.0)}],
            "start_p50_ms": 1, "start_p99_ms": 2, "start_cpu_ms": 0.5,
        });
        let text = table(&report);
        assert!(text.contains("| a | 2.0 | 3.0 | 1.2 | 4.0 | 5.0 |\n"), "{text}");
        assert!(text.ends_with("| VERSION | 1.0 | 2.0 | 0.5 | | |\n"), "{text}");
    }
}
