//! `sluice`: the agent of a node, and the command line that asks it.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod answers;
mod cli;
mod cni_files;
mod config;
mod control;
mod dataplane;
mod endpoints;
mod event_loop;
mod follow;
mod host;
mod node;
mod observe;
mod pod_mtu;
mod sockets;
mod watch;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("sluice: {e:#}");
            ExitCode::FAILURE
        }
    }
}
