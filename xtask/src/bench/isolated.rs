//! Benches that run as one program in namespaces of its own and print a report.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

/// Runs a bench; returns the JSON of the last line that it prints.
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
    let text = process::output_within(&mut command, deadline)?;
    serde_json::from_str(text.lines().last().unwrap_or_default())
        .with_context(|| format!("unexpected output of {}: {text:?}", bench.display()))
}
