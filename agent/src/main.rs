//! `sluice`: the agent of a node and its command line.

use std::process::ExitCode;

use clap::Parser;
use sluice_agent::cli::{self, Cli, UsageError};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("sluice: {e:#}");
            if e.is::<UsageError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
