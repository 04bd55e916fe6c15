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

/// What the watch has seen.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// `None`: nothing yet.
    exists: Option<bool>,
    /// How often it ceased to exist.
    deletions: u64,
}

/// What is known about the definition, for the watch of the policies.
#[derive(Debug)]
pub struct Definition {
    seen: watch::Receiver<Seen>,
    state: WatchState,
    /// Attempts that are left without a long pause.
    quick: u32,
    /// Deletions when the policies were listed or known to be deleted.
    deletions: u64,
}

impl Definition {
    /// Waits for an event.
    pub async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
            // The agent is stopping.
            std::future::pending::<()>().await;
        }
        self.quick = QUICK;
    }

    /// The pause after an attempt at a kind that the API server does not have.
    pub fn pause(&mut self) -> Duration {
        match self.quick.checked_sub(1) {
            Some(left) => {
                self.quick = left;
                Duration::ZERO
            }
            None if self.state.fails() => UNWATCHED,
            None => WATCHED,
        }
    }

    /// The policies have been listed.
    pub fn listed(&mut self) {
        self.deletions = self.seen.borrow().deletions;
    }

    /// Whether the definition was deleted after the policies were listed, and all of them with it.
    /// `false` again until the next deletion.
    pub fn take_deletion(&mut self) -> bool {
        let seen = *self.seen.borrow();
        let is_deleted = seen.exists == Some(false) && seen.deletions > self.deletions;
        self.deletions = seen.deletions;
        is_deleted
    }
}

/// Starts the watch of the definition.
pub fn spawn(
    connection: &Connection,
    state: WatchState,
    mut retry: Retry,
    config: watcher::Config,
) -> Definition {
    let (sender, seen) = watch::channel(Seen::default());
    let api = Api::<CustomResourceDefinition>::all(connection.client(state.clone()));
    let definition = Definition { seen, state: state.clone(), quick: 0, deletions: 0 };
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
fn see(sender: &watch::Sender<Seen>, exists: bool) {
    sender.send_if_modified(|seen| {
        let before = seen.exists.replace(exists);
        seen.deletions += u64::from(before == Some(true) && !exists);
        exists || before == Some(true)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watches::Watches;

    fn definition() -> (watch::Sender<Seen>, WatchState, Definition) {
        let (sender, seen) = watch::channel(Seen::default());
        let state = Watches::default().add("CustomResourceDefinition");
        (sender, state.clone(), Definition { seen, state, quick: 0, deletions: 0 })
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_rare_without_events_and_follow_each_event() {
        let (sender, state, mut definition) = definition();
        assert_eq!(definition.pause(), WATCHED);
        see(&sender, false);
        let none = tokio::time::timeout(WATCHED, definition.changed()).await;
        assert!(none.is_err(), "a definition that does not exist is not an event");
        for exists in [true, true, false] {
            see(&sender, exists);
            definition.changed().await;
            let pauses: Vec<_> = (0..=QUICK).map(|_| definition.pause()).collect();
            assert_eq!(pauses.iter().filter(|p| p.is_zero()).count(), QUICK as usize);
            assert_eq!(pauses.last(), Some(&WATCHED));
        }
        state.failed("forbidden");
        assert_eq!(definition.pause(), UNWATCHED);
        state.works();
        assert_eq!(definition.pause(), WATCHED);
    }

    #[test]
    fn deletion_after_the_list_is_one_of_all_policies() {
        let (sender, _, mut definition) = definition();
        see(&sender, false);
        definition.listed();
        assert!(!definition.take_deletion(), "it never existed");
        see(&sender, true);
        assert!(!definition.take_deletion());
        see(&sender, false);
        assert!(definition.take_deletion() && !definition.take_deletion());
        see(&sender, true);
        see(&sender, false);
        see(&sender, true);
        assert!(!definition.take_deletion(), "it exists again");
        see(&sender, false);
        definition.listed();
        assert!(!definition.take_deletion(), "listed since");
    }
}
