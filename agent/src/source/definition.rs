//! The CustomResourceDefinition of ClusterNetworkPolicies, which a cluster may have or not.
//!
//! ```text
//! watch of the definition --an event--> watch of the policies tries again at once
//!                         --deleted---> there are no policies
//! ```
//! Without the definition, the API server does not have the kind. Policies that are made after it is
//! installed are in force within seconds, without requests that poll for it.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::runtime::watcher::{self, Event, metadata_watcher};
use sluice_bpf::error_chain;
use tokio::sync::watch;

use super::api_types::CustomResourceDefinition;
use super::client::Connection;
use super::retry::Retry;
use super::watch_error::cause;
use crate::watches::WatchState;

/// The definition.
const FIELDS: &str = "metadata.name=clusternetworkpolicies.policy.networking.k8s.io";
/// Attempts with exponential backoff after an event, about a minute: an API server has the kind a moment
/// after its definition, another one of the cluster later.
const QUICK: u32 = 8;
/// Pause between attempts while the definition is watched, before jitter.
const WATCHED: Duration = Duration::from_secs(600);
/// Pause between attempts while it is not, because the agent may not.
const UNWATCHED: Duration = Duration::from_secs(30);

/// What is known about the definition, for the watch of the policies.
#[derive(Debug)]
pub struct Definition {
    /// Whether it exists; `None`: not known yet.
    exists: watch::Receiver<Option<bool>>,
    state: WatchState,
    /// Attempts that are left without a long pause.
    quick: u32,
}

impl Definition {
    /// Waits for an event.
    pub async fn changed(&mut self) {
        if self.exists.changed().await.is_err() {
            // The agent is stopping.
            std::future::pending::<()>().await;
        }
        self.quick = if self.exists() == Some(true) { QUICK } else { 0 };
    }

    /// Whether it exists. `None`: not known, and it may become known.
    pub fn exists(&self) -> Option<bool> {
        *self.exists.borrow()
    }

    /// Whether it is not known if it exists, because it cannot be watched.
    pub fn is_unwatched(&self) -> bool {
        self.exists().is_none() && self.state.fails()
    }

    /// The pause after an attempt at a kind that the API server does not have.
    pub fn pause(&mut self) -> Duration {
        match self.quick.checked_sub(1) {
            Some(left) => {
                self.quick = left;
                Duration::ZERO
            }
            None if self.exists() == Some(false) && !self.state.fails() => WATCHED,
            None => UNWATCHED,
        }
    }

    /// Whether it exists, and the API server still does not have the kind when it should.
    pub fn is_broken(&self) -> bool {
        self.exists() == Some(true) && self.quick == 0
    }
}

/// Starts the watch of the definition.
pub fn spawn(
    connection: &Connection,
    state: WatchState,
    mut retry: Retry,
    config: watcher::Config,
) -> Definition {
    let (sender, exists) = watch::channel(None);
    let api = Api::<CustomResourceDefinition>::all(connection.client(state.clone()));
    let definition = Definition { exists, state: state.clone(), quick: QUICK };
    let config = config.fields(FIELDS);
    tokio::spawn(async move {
        let mut stream = pin!(metadata_watcher(api, config));
        let mut in_list = false;
        while let Some(next) = stream.next().await {
            match &next {
                Ok(Event::Init) => in_list = false,
                Ok(_) => retry.responded(),
                Err(_) => {}
            }
            match next {
                Ok(Event::Init) => {}
                Ok(Event::InitApply(_)) => in_list = true,
                Ok(Event::InitDone) => {
                    state.synced();
                    see(&sender, in_list);
                }
                Ok(Event::Apply(_)) => see(&sender, true),
                Ok(Event::Delete(_)) => see(&sender, false),
                Err(e) => {
                    let text = error_chain(&e);
                    if state.failed(&text) {
                        tracing::warn!(error = %text, "cannot watch the CRD of ClusterNetworkPolicy, retrying; polling every 30 s for ClusterNetworkPolicies while the API server does not serve them");
                    }
                    retry.wait(cause(&e)).await;
                }
            }
            if sender.is_closed() {
                return;
            }
        }
    });
    definition
}

/// Records that the definition exists or not. Receivers learn of each change of it, and of the start of
/// a list that has it.
fn see(sender: &watch::Sender<Option<bool>>, exists: bool) {
    sender.send_if_modified(|seen| {
        let before = seen.replace(exists);
        exists || before != Some(false)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watches::Watches;

    #[tokio::test(start_paused = true)]
    async fn attempts_are_rare_without_events_and_follow_each_event() {
        let (sender, exists) = watch::channel(None);
        let state = Watches::default().add("CustomResourceDefinition");
        let mut definition = Definition { exists, state: state.clone(), quick: 0 };
        let seconds = [WATCHED, UNWATCHED].map(|pause| pause.as_secs());
        assert_eq!((QUICK, seconds), (8, [600, 30]));
        assert_eq!(definition.pause(), UNWATCHED, "not known yet");
        for exists in [false, true, true, false] {
            see(&sender, exists);
            definition.changed().await;
            if exists {
                let pauses: Vec<_> = (0..QUICK).map(|_| definition.pause()).collect();
                assert!(pauses.iter().all(Duration::is_zero), "{pauses:?}");
            }
            assert_eq!(definition.is_broken(), exists);
            assert_eq!(definition.pause(), if exists { UNWATCHED } else { WATCHED });
        }
        see(&sender, false);
        let none = tokio::time::timeout(WATCHED, definition.changed()).await;
        assert!(none.is_err(), "a definition that still does not exist is not an event");
        state.failed("forbidden");
        assert_eq!((definition.pause(), definition.is_unwatched()), (UNWATCHED, false));
        state.works();
        assert_eq!(definition.pause(), WATCHED);
    }
}
