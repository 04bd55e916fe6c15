//! Command line of Sluice, one file per command.
//!
//! `agent` and `prepare-node` are run by the DaemonSet, the other commands by an operator, on the
//! node or with `kubectl exec`. Commands that read the state of the node print a table, or JSON
//! with `-o json`. `policy` queries the agent. `status` and `service` query it, too; without an agent they print the contents
//! of the kernel's maps and a note on standard error. `endpoint`, `conntrack` and `counters` read
//! the maps.

mod cleanup;
mod conntrack;
mod counters;
mod doctor;
mod drops;
mod endpoint;
mod output;
mod policy;
mod prepare_node;
mod service;
mod status;

use std::fmt;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sluice_abi::pin;
use sluice_bpf::error_chain;
use tracing_subscriber::EnvFilter;

use self::output::{Output, is_broken_pipe, print_json, print_text};
use crate::api::{self, ClientError, Request};
use crate::config::{AgentArgs, Config};
use crate::kernel::linux::maps::Maps;
use crate::{paths, version};

/// Time until a response of the agent is complete; longer than the agent's own deadlines, so that
/// its error is printed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Log filter without `RUST_LOG`. The watches log a failed request once; kube_client would log
/// every attempt.
const DEFAULT_LOG_FILTER: &str = "info,kube=warn,kube_client=off,hyper=warn,aya=warn";

const EXIT_CODES: &str = "\
Exit codes:
  0  success; for `status`: the node is ready and no condition is set (mistakes in policies set none); for `doctor`: nothing is missing and no problem found; for `policy check`: no problem besides warnings
  1  failure; for `status`: the node is not ready or a condition is set; for `doctor` and `policy check`: something is missing or a problem was found
  2  invalid command line";

/// Pod network and Services of a Kubernetes node, in eBPF.
#[derive(Parser, Debug)]
#[command(name = "sluice", version = version::text(), after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Output format.
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Socket of the agent's API.
    #[arg(long = "agent-socket", global = true, value_name = "FILE", default_value = paths::SOCKET)]
    agent_socket: PathBuf,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the agent of this node.
    Agent(Box<AgentArgs>),
    /// Prepare this node for the agent: mount bpffs, enable IP forwarding.
    PrepareNode,
    /// Show the state of this node: readiness, uplink, table sizes, watches, conditions, packet
    /// counters.
    Status,
    /// List Service ports and their backends.
    #[command(visible_alias = "services")]
    Service(service::Args),
    /// List the pods of this node and their devices.
    #[command(visible_alias = "endpoints")]
    Endpoint(endpoint::Args),
    /// Show NetworkPolicies and what they mean for a pod; check manifests.
    #[command(subcommand, visible_alias = "policies")]
    Policy(policy::Command),
    /// List flows of pods and Services, before and after translation.
    Conntrack(conntrack::Args),
    /// Show packet and byte counters by drop reason and outcome.
    Counters,
    /// Show the last dropped packets of this node, a sample, and why policies dropped them.
    Drops(drops::Args),
    /// Check whether this node meets the requirements of Sluice.
    Doctor(doctor::Args),
    /// Remove Sluice from this node: programs, maps, routes, CNI files. Pods on it lose
    /// connectivity.
    Cleanup(cleanup::Args),
    /// Print version, git revision and ABI version of this binary.
    Version,
}

/// A value of a flag that is not valid, or flags that are not valid together: exit code 2, as for the
/// errors of clap.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

impl UsageError {
    fn new(message: impl fmt::Display) -> UsageError {
        UsageError(message.to_string())
    }
}

#[derive(Debug, Serialize)]
struct Version {
    version: &'static str,
    revision: &'static str,
    abi: u32,
}

/// Runs one command.
///
/// # Errors
/// The command failed; the text names the object and the remedy where there is one.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match dispatch(cli) {
        Err(e) if is_broken_pipe(&e) => Ok(ExitCode::SUCCESS),
        result => result,
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { command, output, agent_socket } = cli;
    match command {
        Command::Agent(args) => {
            start_logging();
            let config = Config::try_from(*args).map_err(|e| UsageError::new(error_chain(&e)))?;
            crate::run::run(config).context("agent")?;
        }
        Command::PrepareNode => {
            start_logging();
            prepare_node::run()?;
        }
        Command::Status => return status::run(&agent_socket, output),
        Command::Service(args) => service::run(&agent_socket, &args, output)?,
        Command::Endpoint(args) => endpoint::run(&args, output)?,
        Command::Policy(command) => return policy::run(&agent_socket, &command, output),
        Command::Conntrack(args) => conntrack::run(&args, &agent_socket, output)?,
        Command::Counters => counters::run(output)?,
        Command::Drops(args) => drops::run(&agent_socket, &args, output)?,
        Command::Doctor(args) => return doctor::run(&args, output),
        Command::Cleanup(args) => cleanup::run(&args)?,
        Command::Version => print_version(output)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print_version(output: Output) -> anyhow::Result<()> {
    match output {
        Output::Text => print_text(&format!("sluice {}\n", version::text())),
        Output::Json => print_json(&Version {
            version: version::VERSION,
            revision: version::REVISION,
            abi: sluice_abi::ABI_VERSION,
        }),
    }
}

/// Logs to standard error; `RUST_LOG` replaces the default filter.
fn start_logging() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG_FILTER));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

/// The maps that the programs use.
fn maps() -> anyhow::Result<Maps> {
    Maps::open().with_context(|| {
        format!("open the maps in {}; Sluice has to be loaded on this node, and only root may read them", pin::MAPS)
    })
}

/// All rows of the agent's response, so that an error precedes any output.
///
/// # Errors
/// The agent does not answer, it reports an error, or its response is not complete.
fn ask<R: DeserializeOwned>(socket: &Path, request: &Request) -> Result<Vec<R>, ClientError> {
    api::call(socket, request, REQUEST_TIMEOUT)?.collect()
}

/// As [`ask`], for what the maps of the kernel show as well; `None` when no agent
/// answers, which is reported on standard error.
///
/// # Errors
/// The agent reports an error, or its response is not complete.
fn rows_of_agent<R: DeserializeOwned>(
    socket: &Path,
    request: &Request,
) -> anyhow::Result<Option<Vec<R>>> {
    match ask(socket, request) {
        Ok(rows) => Ok(Some(rows)),
        Err(e) if e.agent_is_unavailable() => {
            eprintln!("sluice: {e}");
            eprintln!("sluice: showing the maps of the kernel, which stay in force");
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn version_has_the_git_revision() {
        let printed = Cli::try_parse_from(["sluice", "--version"]).unwrap_err().to_string();
        assert_eq!(printed, format!("sluice {}\n", version::text()));
        let (version, built_from) = printed.trim_end().split_once(" (").unwrap();
        assert_eq!(version, concat!("sluice ", env!("CARGO_PKG_VERSION")));
        let expected = option_env!("SLUICE_REVISION").unwrap_or("unknown");
        let abi = sluice_abi::ABI_VERSION;
        assert_eq!(built_from, format!("revision {expected}, ABI {abi})"));
    }

    #[test]
    fn every_command_and_flag_has_help() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for flag in command.get_arguments() {
                assert!(flag.get_help().is_some(), "{} {}", command.get_name(), flag.get_id());
            }
        }
        assert!(Cli::command().render_help().to_string().contains("Exit codes:"));
    }

    #[test]
    fn missing_agent_is_no_error_but_a_wrong_response_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let query = || rows_of_agent::<api::Status>(&path, &Request::Status {});
        assert!(query().unwrap().is_none());
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || drop(listener.accept().unwrap()));
        assert!(query().unwrap_err().to_string().contains("closed the connection"));
        server.join().unwrap();
    }
}
