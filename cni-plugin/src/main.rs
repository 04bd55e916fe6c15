//! The CNI binary: reads environment and stdin, writes JSON, sets the exit code.

use std::io::{Read, Write};
use std::process::ExitCode;

use sluice_cni::spec::{CniError, Environment, Version, code};
use sluice_cni::verb;

/// Upper limit of stdin in bytes, far above the size of any configuration.
const STDIN_MAX: u64 = 4 << 20;

fn main() -> ExitCode {
    let mut stdin = String::new();
    let outcome = read(&mut stdin).and_then(|environment| verb::run(&environment, &stdin));
    let (answer, exit) = match outcome {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(answer)) => (answer, ExitCode::SUCCESS),
        Err(e) => (e.to_json(Version::of_answer(&stdin)), ExitCode::FAILURE),
    };
    match writeln!(std::io::stdout(), "{answer}") {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}

fn read(stdin: &mut String) -> Result<Environment, CniError> {
    std::io::stdin().take(STDIN_MAX).read_to_string(stdin).map_err(|e| {
        CniError::caused(code::DECODE, "network configuration on stdin cannot be read", &e)
    })?;
    Environment::read(|name| std::env::var(name).ok())
}
