//! The CNI binary: environment and stdin in, JSON and an exit code out.

use std::io::{Read, Write};
use std::process::ExitCode;

use serde_json::Value;
use sluice_cni::spec::{CniError, Environment, Version, code};
use sluice_cni::verb;

/// More than any configuration; a runtime that sends this much is broken.
const STDIN_MAX: u64 = 4 << 20;

fn main() -> ExitCode {
    let mut stdin = String::new();
    let outcome = read(&mut stdin).and_then(|environment| verb::run(&environment, &stdin));
    let (answer, exit) = match outcome {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(answer)) => (answer, ExitCode::SUCCESS),
        Err(e) => (e.to_json(asked_version(&stdin)), ExitCode::FAILURE),
    };
    match writeln!(std::io::stdout(), "{answer}") {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}

fn read(stdin: &mut String) -> Result<Environment, CniError> {
    std::io::stdin().take(STDIN_MAX).read_to_string(stdin).map_err(|e| {
        CniError::caused(code::DECODE, "the network configuration on stdin is unreadable", &e)
    })?;
    Environment::read(|name| std::env::var(name).ok())
}

/// The version to answer an error in: the one asked, or our newest.
fn asked_version(stdin: &str) -> &'static str {
    serde_json::from_str::<Value>(stdin)
        .ok()
        .and_then(|json| Version::parse(json.get("cniVersion")?.as_str()?))
        .unwrap_or(Version::NEWEST)
        .text()
}
