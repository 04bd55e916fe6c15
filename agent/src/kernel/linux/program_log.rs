//! The log lines of programs of a debug build, as log lines of the agent.

use std::path::Path;

use anyhow::Context;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};
use sluice_abi::{pin, program};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Reads the log of the pinned programs, which share one map, as long as the agent runs.
///
/// # Errors
/// The programs do not log, or their map cannot be read.
pub fn spawn() -> anyhow::Result<()> {
    let path = Path::new(pin::PROGRAMS).join(program::FROM_POD);
    let id = sluice_bpf::prog_info(&sluice_bpf::obj_get(&path)?)?.id;
    let logger = EbpfLogger::init_from_id_with_logger(id, ToTracing)
        .context("the programs do not log: build with `cargo xtask build --debug-programs`")?;
    // SAFETY: the logger owns the descriptor of its ring buffer and always returns the same one.
    let mut logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
        .map_err(std::io::Error::from)?;
    tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
    Ok(())
}

/// Writes records with the target `programs`.
struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.args();
        match record.level() {
            Level::Error => tracing::error!(target: "programs", "{line}"),
            Level::Warn => tracing::warn!(target: "programs", "{line}"),
            Level::Info => tracing::info!(target: "programs", "{line}"),
            Level::Debug | Level::Trace => tracing::debug!(target: "programs", "{line}"),
        }
    }

    fn flush(&self) {}
}
