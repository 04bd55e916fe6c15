//! Sources of objects: the API server, or a directory of manifests.
//!
//! ```text
//! API server --client.rs--> watch (kube) -----> api_types --\
//!                                                           convert --> core::model --> Change --> event loop
//! directory  --folder.rs (YAML)---------------> api_types -/
//!
//! findings --object_events.rs--> Events
//! ```
//! `agents.rs` is for the command line on an operator's machine.
//! `definition.rs` watches whether the cluster has ClusterNetworkPolicies.
//! `api_server.rs` reads address and credentials, `transport.rs` connects, `retry.rs` decides
//! when a watch tries again, and `restored.rs` whether it is ahead of the server.
//! Kubernetes API types are used in this module only. A source runs as long as the agent: an error
//! is logged once and retried, and the objects received before stay in force. It has its own thread, so
//! that objects are parsed and timeouts of watches expire while the event loop is busy.

pub mod agents;
pub mod convert;
pub mod folder;

mod api_server;
mod api_types;
#[cfg(test)]
mod cases;
mod client;
mod definition;
mod object_events;
#[cfg(test)]
mod outages;
mod restored;
mod retry;
mod transport;
mod watch;
mod watch_error;

use std::io;
use std::thread;

use sluice_core::model::Change;
use tokio::sync::{mpsc, oneshot};

pub use self::api_server::ApiServerError;
pub use self::folder::FolderError;
use self::restored::SILENT_AFTER;
use crate::config::{Config, Source};
use crate::findings::{self, Finding};
use crate::watches::Watches;

/// A source that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The API server cannot be used.
    #[error(transparent)]
    ApiServer(#[from] ApiServerError),
    /// The directory cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The thread or its runtime cannot be started.
    #[error("cannot start the thread of the watches")]
    Thread(#[from] io::Error),
}

/// Starts a thread with the source that the configuration names, as [`start`] does. Both end when the
/// receiver of the events is dropped.
///
/// # Errors
/// The kubeconfig is not valid, or the directory does not exist: retrying cannot succeed. The thread
/// cannot be started.
pub async fn spawn<E: Send + 'static>(
    config: Config,
    events: mpsc::Sender<E>,
    event: fn(Change) -> E,
    watches: Watches,
    findings: mpsc::Receiver<Finding>,
) -> Result<(), SourceError> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // A name is resolved by a blocking thread.
    let runtime = runtime.enable_all().max_blocking_threads(2).build()?;
    let (started, result) = oneshot::channel();
    let run = async move {
        let result = start(&config, events.clone(), event, &watches, findings).await;
        if started.send(result).is_ok() {
            events.closed().await;
        }
    };
    thread::Builder::new().name("watches".to_owned()).spawn(move || runtime.block_on(run))?;
    let ended = |_| SourceError::Thread(io::Error::other("the thread ended during its start"));
    result.await.map_err(ended)?
}

/// Starts the source that the configuration names; its changes are sent to `events`, and the state of
/// its watches is kept in `watches`. `findings` are logged and, with an API server, become Events.
///
/// # Errors
/// The kubeconfig is not valid, or the directory does not exist. Retrying cannot succeed.
async fn start<E: Send + 'static>(
    config: &Config,
    events: mpsc::Sender<E>,
    event: fn(Change) -> E,
    watches: &Watches,
    findings: mpsc::Receiver<Finding>,
) -> Result<(), SourceError> {
    match &config.source {
        Source::Folder(folder) => {
            folder::spawn(folder.clone(), events, event)?;
            let mut findings = findings;
            let log_only = |_| std::future::ready(Ok(()));
            tokio::spawn(async move { findings::report(&mut findings, log_only).await });
        }
        Source::Api(access) => {
            let (node, pods) = (&config.node_name, config.watch_pods);
            let connection =
                watch::spawn(access, node, pods, &events, event, watches, SILENT_AFTER).await?;
            // Ends with the loop.
            let _task = object_events::spawn(&connection, config.events, findings);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::harness::{Harness, host};
    use crate::kernel::fake::FakeKernel;

    fn config(dir: &std::path::Path) -> Config {
        let flags = ["--source", dir.to_str().unwrap()];
        Harness::with(&flags, FakeKernel::new(host())).config().clone()
    }

    /// Nothing is awaited after the start: the test's runtime is blocked, as by an event loop that compiles.
    #[tokio::test]
    async fn objects_arrive_while_the_event_loop_is_busy() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), "kind: Node\nmetadata: {name: n1}\n").unwrap();
        let (events, mut queue) = mpsc::channel(64);
        let (_findings, found) = crate::findings::queue();
        let change = |change| change;
        spawn(config(dir.path()), events, change, Watches::default(), found).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let change = loop {
            match queue.try_recv() {
                Ok(change) => break change,
                Err(e) => assert!(Instant::now() < deadline, "{e}"),
            }
            thread::yield_now();
        };
        assert!(matches!(change, Change::Replace(..)), "{change:?}");
    }

    #[tokio::test]
    async fn source_that_cannot_be_used_is_an_error() {
        let (events, _queue) = mpsc::channel::<Change>(64);
        let (_findings, found) = crate::findings::queue();
        let missing = config("/nonexistent".as_ref());
        let result = spawn(missing, events, |change| change, Watches::default(), found).await;
        assert!(matches!(result, Err(SourceError::Folder(_))), "{result:?}");
    }
}
