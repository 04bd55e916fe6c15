//! stub
use crate::cache::Cache;
use anyhow::{Result, bail};
/// Options.
#[derive(clap::Args)]
pub struct Options {}
pub fn run(_: &Cache, _: &Options) -> Result<std::process::ExitCode> {
    bail!("not yet")
}
