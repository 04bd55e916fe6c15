//! Benches that run as one program in namespaces of its own and print a report.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;
use crate::progress::Reporter;

/// Runs a bench with progress lines; returns the JSON of the last line that it prints.
///
/// # Errors
/// When the bench fails or does not end within the deadline, or prints something else.
pub fn report<'a>(
    bench: &Path,
    arguments: &[&str],
    environment: impl IntoIterator<Item = (&'static str, &'a Path)>,
    deadline: Duration,
) -> Result<Value> {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--net", "--propagation", "private"])
        .arg(bench)
        .args(arguments)
        .envs(environment);
    let name = bench.file_name().unwrap_or_default().to_string_lossy();
    let mut reporter = Reporter::new(&name);
    let report = || reporter.report(String::new);
    let text = process::output_watched(&mut command, deadline, report)?;
    serde_json::from_str(text.lines().last().unwrap_or_default())
        .with_context(|| format!("unexpected output of {}: {text:?}", bench.display()))
}
