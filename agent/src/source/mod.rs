//! Where objects come from: the API server, or a folder of manifests.
//!
//! ```text
//! API server --kube-rs watch--> wire --\
//!                                       convert --> core::model --> Change --> event loop
//! folder     --inotify, YAML--> wire --/
//! ```
//! Kubernetes' own types go no further than this room. A source never stops: what fails is logged
//! once and tried again, while everything learnt before stays valid.

mod api_server;
mod api_types;
mod convert;
mod folder;
mod watch;

pub use api_server::ApiServerError;
pub use folder::FolderError;

use sluice_core::model::Change;
use tokio::sync::mpsc;

use crate::config::{Config, Source};

/// Why a source cannot be started at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No way to the API server.
    #[error(transparent)]
    ApiServer(#[from] ApiServerError),
    /// The folder cannot be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// Starts the source that the configuration names; its changes arrive at `events`.
///
/// # Errors
/// What can't get better by waiting: a kubeconfig that makes no sense, a folder that isn't there.
pub async fn spawn<E: Send + 'static>(
    config: &Config,
    events: mpsc::Sender<E>,
    event: fn(Change) -> E,
) -> Result<(), SourceError> {
    match &config.source {
        Source::Folder(folder) => folder::spawn(folder.clone(), events, event)?,
        Source::Api { kubeconfig, kubelet_conf } => {
            let client = api_server::client(kubeconfig.as_deref(), kubelet_conf).await?;
            watch::spawn(&client, &config.node_name, &events, event);
        }
    }
    Ok(())
}
