//! stub
use crate::cache::Cache;
use anyhow::{Result, bail};
/// Options.
#[derive(clap::Args)]
pub struct Options {}
pub fn run(_: &Cache, _: &Options) -> Result<()> {
    bail!("not yet")
}
