//! `sluice`: the agent of a node and its command line.

use std::process::ExitCode;

use clap::Parser;
use sluice_agent::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("sluice: {e:#}");
            ExitCode::FAILURE
        }
    }
}
