//! The commands. Each prints a table for people, or JSON with `-o json`.
//!
//! `agent` and `prepare-node` are what the DaemonSet runs; all others may be run at any time, on
//! the node or by `kubectl exec`. Those that look ask the agent first and read the kernel's maps
//! where it is away.

mod cleanup;
mod conntrack;
mod counters;
mod doctor;
mod endpoint;
mod prepare_node;
mod service;
mod status;
mod table;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use sluice_abi::{Addr, PortBe, proto};

use crate::api::{self, DEFAULT_SOCKET, Request};
use crate::config::{AgentArgs, Config};
use crate::dataplane::maps::Maps;

/// The network of a Kubernetes node: pods, Services, in eBPF.
#[derive(Parser, Debug)]
#[command(name = "sluice", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Form of the output.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Socket of the agent.
    #[arg(long = "agent-socket", global = true, default_value = DEFAULT_SOCKET)]
    agent_socket: PathBuf,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the agent of this node.
    Agent(Box<AgentArgs>),
    /// Make the node ready for the agent: mount bpffs, allow forwarding, install the CNI binary.
    PrepareNode(prepare_node::Args),
    /// How this node is.
    Status,
    /// Services and their backends.
    #[command(visible_alias = "services")]
    Service(service::ServiceArgs),
    /// Pods of this node.
    #[command(visible_alias = "endpoints")]
    Endpoint(endpoint::EndpointArgs),
    /// Flows that are being translated.
    Conntrack(conntrack::ConntrackArgs),
    /// What became of packets.
    Counters,
    /// Whether this node can run Sluice, and what is missing.
    Doctor(doctor::Args),
    /// Take Sluice off this node: programs, pins, routes, CNI files. Pods lose their network.
    Cleanup(cleanup::Args),
    /// Version of this binary.
    Version,
}

/// Runs one command.
///
/// # Errors
/// What the command could not do, in words for the terminal.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { command, output, agent_socket } = cli;
    match command {
        Command::Agent(args) => {
            start_logging();
            let config = Config::try_from(*args)?;
            crate::event_loop::run(config).context("agent")?;
        }
        Command::PrepareNode(args) => {
            start_logging();
            prepare_node::run(&args)?;
        }
        Command::Status => return status::status(&agent_socket, output),
        Command::Service(args) => service::services(&agent_socket, &args, output)?,
        Command::Endpoint(args) => endpoint::endpoints(&args, output)?,
        Command::Conntrack(args) => conntrack::conntrack(&args, output)?,
        Command::Counters => counters::counters(output)?,
        Command::Doctor(args) => return doctor::run(&args, output),
        Command::Cleanup(args) => cleanup::run(&args)?,
        Command::Version => match output {
            Output::Text => {
                println!("sluice {} (abi {})", env!("CARGO_PKG_VERSION"), sluice_abi::ABI_VERSION)
            }
            Output::Json => println!(
                "{}",
                serde_json::json!({
                    "version": env!("CARGO_PKG_VERSION"),
                    "abi": sluice_abi::ABI_VERSION,
                })
            ),
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// Lines on standard error; `RUST_LOG` picks what is said. The watches tell of failed requests
/// themselves, once; kube_client would for each attempt.
fn start_logging() {
    use std::io::IsTerminal;
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,kube=warn,kube_client=off,hyper=warn,aya=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

fn maps() -> anyhow::Result<Maps> {
    Maps::open().context("read the kernel's tables: was the dataplane ever loaded here?")
}

fn ask_agent<T: serde::de::DeserializeOwned>(socket: &Path, request: &Request) -> Option<T> {
    let answer = api::call(socket, request).ok()?;
    serde_json::from_str(&answer).ok()
}

/// `address:port`, IPv6 in brackets.
fn end(address: Addr, port: PortBe) -> String {
    SocketAddr::new(address.into(), port.get()).to_string()
}

fn protocol(number: u8) -> String {
    match number {
        proto::TCP => "TCP".to_owned(),
        proto::UDP => "UDP".to_owned(),
        proto::SCTP => "SCTP".to_owned(),
        proto::ICMP => "ICMP".to_owned(),
        proto::ICMPV6 => "ICMPv6".to_owned(),
        n => n.to_string(),
    }
}

/// Prints JSON on several lines.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
