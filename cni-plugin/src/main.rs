//! The CNI binary: reads environment and stdin, writes JSON, sets the exit code. Runtimes give it no
//! argument; with `--version` it prints what it was built from.

use std::fmt::Display;
use std::io::{Read, Write};
use std::process::ExitCode;

use sluice_cni::spec::{CniError, Environment, Version, code};
use sluice_cni::verb;

/// Git revision of the sources, as in the agent's `version`.
const REVISION: &str = match option_env!("SLUICE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Upper limit of stdin in bytes, far above the size of any configuration.
const STDIN_MAX: u64 = 4 << 20;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "--version") {
        return print(&version(), ExitCode::SUCCESS);
    }
    let mut stdin = String::new();
    let outcome = read(&mut stdin).and_then(|environment| verb::run(&environment, &stdin));
    let (answer, exit) = match outcome {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(answer)) => (answer, ExitCode::SUCCESS),
        Err(e) => (e.to_json(Version::of_answer(&stdin)), ExitCode::FAILURE),
    };
    print(&answer, exit)
}

/// Prints a line and returns `exit`, if the line can be written.
fn print(line: &impl Display, exit: ExitCode) -> ExitCode {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}

fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("sluice-cni {version} (revision {REVISION}, ABI {})", sluice_abi::ABI_VERSION)
}

fn read(stdin: &mut String) -> Result<Environment, CniError> {
    std::io::stdin().take(STDIN_MAX).read_to_string(stdin).map_err(|e| {
        CniError::caused(code::DECODE, "network configuration on stdin cannot be read", &e)
    })?;
    Environment::read(|name| std::env::var(name).ok())
}
