//! Sources of objects: the API server, or a directory of manifests.
//!
//! ```text
//! API server --client.rs--> watch.rs (kube) --> api_types --\
//!                                                           convert --> core::model --> Change --> event loop
//! directory  --folder.rs (YAML)---------------> api_types -/
//!
//! findings --object_events.rs--> Events
//! ```
//! `agents.rs` is for the command line on an operator's machine.
//! `definition.rs` watches whether the cluster has ClusterNetworkPolicies.
//! `api_server.rs` reads address and credentials, `transport.rs` connects, and `retry.rs` decides
//! when a watch tries again.
//! Kubernetes API types are used in this module only. A source runs as long as the agent: an error
//! is logged once and retried, and the objects received before stay in force.

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
mod retry;
mod transport;
mod watch;
mod watch_error;

use sluice_core::model::Change;
use tokio::sync::mpsc;

pub use self::api_server::ApiServerError;
pub use self::folder::FolderError;
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
}

/// Starts the source that the configuration names; its changes are sent to `events`, and the state of
/// its watches is kept in `watches`. `findings` are logged and, with an API server, become Events.
///
/// # Errors
/// The kubeconfig is not valid, or the directory does not exist. Retrying cannot succeed.
pub async fn spawn<E: Send + 'static>(
    config: &Config,
    events: mpsc::Sender<E>,
    event: fn(Change) -> E,
    watches: &Watches,
    findings: mpsc::Receiver<Finding>,
) -> Result<(), SourceError> {
    match &config.source {
        Source::Folder(folder) => {
            folder::spawn(folder.clone(), events, event)?;
            tokio::spawn(findings::report(findings, |_| std::future::ready(())));
        }
        Source::Api(access) => {
            let connection =
                watch::spawn(access, &config.node_name, config.watch_pods, &events, event, watches)
                    .await?;
            // Ends with the loop.
            let _task = object_events::spawn(&connection, config.events, findings);
        }
    }
    Ok(())
}
