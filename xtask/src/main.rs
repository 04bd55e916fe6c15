//! The development commands of Sluice: `cargo xtask` prints them.
//!
//! ```text
//! commands      setup, build, image, cluster, demo, test, fuzz, mutants, tidy, kernels, bench,
//!               conformance, contract
//! kind/         what a cluster is made of: engine, node image, Kubernetes
//! progress      output of long steps        process  child processes with deadlines
//! cache         slow results, by the hash of their inputs      oci  images without Docker
//! revision      what programs show as their sources
//! ```
//! Commands use `kind`, and everything uses the last three lines. xtask calls other programs, which
//! the product never does. It depends on no other crate of the workspace, so it builds when they
//! do not.

mod arch;
mod bench;
mod build;
mod cache;
mod cluster;
mod conformance;
mod contract;
mod demo;
mod fuzz;
mod image;
mod install;
mod kernels;
mod kind;
mod mutants;
mod oci;
mod process;
mod progress;
mod revision;
mod setup;
mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

/// The list that `cargo xtask` prints. A unit test compares it with the subcommands.
const HELP: &str = "\
Development commands of Sluice

Usage: cargo xtask <COMMAND> [OPTIONS]

Build:
  setup        Install missing tools: eBPF tool chain, kind, container engine
  build        Build the eBPF programs, the agent and the CNI binary
  image        Pack the programs into an OCI image, target/image/sluice.tar

Run:
  demo         Create a cluster with Sluice and an example application
  cluster      Create, remove, fill and show kind clusters

Test:
  test         Run the tests of every level, or of one
  fuzz         Run libFuzzer on the parsers of outside input
  mutants      Change the product and check that tests fail
  tidy         Check the rules of this repository
  kernels      Run packet and namespace tests on packaged kernels
  bench        Measure Sluice, kube-proxy and the bridge plugin
  conformance  Run the network specifications of Kubernetes
  contract     Write the results of tests into docs/CONTRACT.md

`cargo xtask <COMMAND> --help` prints the options of a command.
";

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, override_help = HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Install missing tools: eBPF tool chain, kind, container engine
    Setup,
    /// Build the eBPF programs, the agent and the CNI binary
    Build(build::Options),
    /// Pack the programs into an OCI image, target/image/sluice.tar
    Image(image::Options),
    /// Create, remove, fill and show kind clusters
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Create a cluster with Sluice and an example application
    Demo(demo::Options),
    /// Run the tests of every level, or of one
    Test(test::Options),
    /// Run libFuzzer on the parsers of outside input
    Fuzz(fuzz::Options),
    /// Change the product and check that tests fail
    Mutants(mutants::Options),
    /// Check the rules of this repository
    Tidy(tidy::Options),
    /// Run packet and namespace tests on packaged kernels
    Kernels(kernels::Options),
    /// Measure Sluice, kube-proxy and the bridge plugin
    Bench(bench::Options),
    /// Run the network specifications of Kubernetes
    Conformance(conformance::Options),
    /// Write the results of tests into docs/CONTRACT.md
    Contract,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let Some(command) = arguments.command else {
        Arguments::command().print_help()?;
        return Ok(ExitCode::SUCCESS);
    };
    let cache = cache::Cache::open()?;
    match command {
        Command::Setup => setup::run(&cache)?,
        Command::Build(options) => build::run(&cache, &options)?,
        Command::Image(options) => image::run(&cache, &options)?,
        Command::Cluster(command) => cluster::run(&cache, command)?,
        Command::Demo(options) => demo::run(&cache, &options)?,
        Command::Test(options) => return test::run(&cache, &options),
        Command::Fuzz(options) => return fuzz::run(&cache, &options),
        Command::Mutants(options) => return mutants::run(&cache, &options),
        Command::Tidy(options) => return tidy::run(&options),
        Command::Kernels(options) => return kernels::run(&cache, &options),
        Command::Bench(options) => return bench::run(&cache, &options),
        Command::Conformance(options) => return conformance::run(&cache, &options),
        Command::Contract => contract::run()?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_command_with_its_summary() {
        let command = Arguments::command();
        let listed: Vec<&str> = HELP.lines().filter(|line| line.starts_with("  ")).collect();
        let mut expected: Vec<String> = command
            .get_subcommands()
            .map(|c| {
                format!("  {:<12} {}", c.get_name(), c.get_about().cloned().unwrap_or_default())
            })
            .collect();
        expected.sort();
        let mut listed: Vec<String> = listed.iter().map(|&line| line.to_owned()).collect();
        listed.sort();
        assert_eq!(listed, expected);
    }
}
