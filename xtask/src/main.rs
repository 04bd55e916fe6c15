//! Everything a person types while developing Sluice: `cargo xtask` lists it.
//!
//! One file per command; below them `progress` (long steps, told with their time), `cache`
//! (slow results, kept outside the checkout under a hash of what they were made from) and
//! `oci` (images without Docker). xtask may call other programs; the product never does.
//! It depends on no crate of ours: it must build when they don't.

mod artefacts;
mod bench;
mod cache;
mod cluster;
mod demo;
mod engine;
mod image;
mod install;
mod kubernetes;
mod kubernetes_images;
mod node_image;
mod oci;
mod progress;
mod rival;
mod rootfs;
mod setup;
mod test;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about = "Sluice's tasks")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing: eBPF tool chain, kind, an engine where no Docker answers
    Setup,
    /// Build the eBPF programs, the agent and the CNI binary
    Build,
    /// Pack what `build` made into an OCI image, target/image/sluice.tar, without Docker
    Image,
    /// up, down, load, status: make, remove, fill or show a kind cluster
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// From nothing to a cluster with a small shop on it, networked by Sluice
    Demo(demo::Options),
    /// Run the tests: every level, or one
    Test(test::Options),
    /// Measure against kube-proxy and a plain bridge CNI
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
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
        Command::Setup => setup::everything(&cache)?,
        Command::Build => artefacts::build(&cache)?,
        Command::Image => image::build(&cache)?,
        Command::Cluster(command) => cluster::run(&cache, command)?,
        Command::Demo(options) => demo::run(&cache, &options)?,
        Command::Test(options) => return test::run(&cache, &options),
        Command::Bench(options) => return bench::run(&cache, &options),
    }
    Ok(ExitCode::SUCCESS)
}
