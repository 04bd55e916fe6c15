//! `cargo xtask bench packets`: time of the programs for a packet, above an
//! empty program that runs in the same rounds.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::isolated;
use crate::cache::Cache;
use crate::{build, setup};

/// Deadline of the measurement: about 3 s for a million runs of each case.
const STEP: Duration = Duration::from_secs(300);

/// Measures and prints a table.
///
/// # Errors
/// When a build or the measurement fails.
pub fn run(cache: &Cache, runs: u32) -> Result<ExitCode> {
    setup::require_root()?;
    print!("{}", table(&figures(cache, runs)?));
    Ok(ExitCode::SUCCESS)
}

/// Measures; returns an object for each case.
///
/// # Errors
/// When a build or the measurement fails.
pub fn figures(cache: &Cache, runs: u32) -> Result<Vec<Value>> {
    let object = build::bpf_object(cache)?;
    let bench = build::static_program(cache, "packet-tests", "packet-bench", "release")?;
    let environment = [(build::OBJECT_VARIABLE, object.as_path())];
    let figures = isolated::report(&bench, &[&runs.to_string()], environment, STEP)?;
    figures.as_array().cloned().context("packet-bench prints a list")
}

/// A row per case of packet-bench's output.
pub fn table(figures: &[Value]) -> String {
    let mut text = String::from(
        "| packet | program | above an empty program, ns | quartiles |\n|---|---|---|---|\n",
    );
    for figure in figures {
        let name = |field: &str| figure[field].as_str().unwrap_or("?");
        let ns = |field: &str| figure[field].as_f64().unwrap_or(f64::NAN);
        text.push_str(&format!(
            "| {} | `{}` | {:.0} | {:.0} to {:.0} |\n",
            name("case"),
            name("program"),
            ns("median_ns"),
            ns("low_ns"),
            ns("high_ns")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rows_of_a_table() {
        let json = r#"[{"case":"a","program":"p","median_ns":80.6,"low_ns":1.0,"high_ns":99.4}]"#;
        let figures: Vec<Value> = serde_json::from_str(json).unwrap();
        let text = table(&figures);
        assert!(text.ends_with("|---|---|---|---|\n| a | `p` | 81 | 1 to 99 |\n"), "{text}");
    }
}
