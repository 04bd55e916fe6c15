//! State and age of each watch of the API server, for status and metrics. The source updates it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// State and age of a watch, as the API, metrics and the command line show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watch {
    /// Kind of the objects.
    pub kind: String,
    /// Whether all objects have been listed since the agent started.
    pub synced: bool,
    /// Whether the API server does not have the kind.
    pub not_served: bool,
    /// Seconds since the server last sent a part of a list, an event or a bookmark.
    pub idle_seconds: Option<u64>,
    /// Seconds since the watch fails, if it does.
    pub failing_seconds: Option<u64>,
    /// The last error, while the watch fails.
    pub error: Option<String>,
    /// Failed attempts since the agent started.
    pub failures: u64,
}

/// The states of all watches; clones share them. Empty with a source that has no watches.
#[derive(Clone, Debug, Default)]
pub struct Watches(Arc<Mutex<BTreeMap<&'static str, State>>>);

/// The state of one watch; clones share it.
#[derive(Clone, Debug)]
pub struct WatchState {
    kind: &'static str,
    watches: Watches,
}

#[derive(Clone, Debug, Default)]
struct State {
    synced: bool,
    not_served: bool,
    /// When the server last sent something: a page, an event, a bookmark.
    received: Option<Instant>,
    failing_since: Option<Instant>,
    error: Option<String>,
    failures: u64,
}

impl Watches {
    fn states(&self) -> MutexGuard<'_, BTreeMap<&'static str, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a watch.
    pub fn add(&self, kind: &'static str) -> WatchState {
        self.states().insert(kind, State::default());
        WatchState { kind, watches: self.clone() }
    }

    /// The state of each watch now.
    pub fn report(&self) -> Vec<Watch> {
        let seconds = |at: Instant| at.elapsed().as_secs();
        let report = |(kind, state): (&&'static str, &State)| Watch {
            kind: (*kind).to_owned(),
            synced: state.synced,
            not_served: state.not_served,
            idle_seconds: state.received.map(seconds),
            failing_seconds: state.failing_since.map(seconds),
            error: state.error.clone(),
            failures: state.failures,
        };
        self.states().iter().map(report).collect()
    }
}

impl WatchState {
    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(self.watches.states().entry(self.kind).or_default())
    }

    /// Name of the kind.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// All objects have been listed.
    pub fn synced(&self) {
        self.with(|state| state.synced = true);
    }

    /// The server sent a part of a list, an event or a bookmark.
    pub fn received(&self) {
        self.with(|state| state.received = Some(Instant::now()));
    }

    /// The server accepted a request. `true`: the watch failed before.
    pub fn works(&self) -> bool {
        self.with(|state| {
            state.error = None;
            state.not_served = false;
            state.failing_since.take().is_some()
        })
    }

    /// Whether the last attempt failed.
    pub fn fails(&self) -> bool {
        self.with(|state| state.failing_since.is_some())
    }

    /// The server does not have the kind: there are no objects of it. `true`: this is new.
    pub fn not_served(&self) -> bool {
        self.with(|state| {
            (state.error, state.failing_since) = (None, None);
            state.synced = true;
            !std::mem::replace(&mut state.not_served, true)
        })
    }

    /// An attempt failed. `true`: the error is new.
    pub fn failed(&self, error: &str) -> bool {
        self.with(|state| {
            state.not_served = false;
            state.failures += 1;
            state.failing_since.get_or_insert_with(Instant::now);
            let new = state.error.as_deref() != Some(error);
            state.error = Some(error.to_owned());
            new
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn report_has_the_age_of_data_and_failures() {
        let watches = Watches::default();
        let state = watches.add("Service");
        watches.add("Node");
        let report = || {
            let mut all = watches.report();
            all.retain(|watch| watch.kind == "Service");
            all.remove(0)
        };
        assert_eq!(report(), Watch { kind: "Service".to_owned(), ..Watch::default() });
        state.synced();
        state.received();
        advance(Duration::from_secs(5)).await;
        assert!(state.failed("refused"));
        advance(Duration::from_secs(2)).await;
        // The age is that of the first failure in a row.
        assert!(!state.failed("refused") && state.failed("timeout"));
        let expected = Watch {
            kind: "Service".to_owned(),
            synced: true,
            not_served: false,
            idle_seconds: Some(7),
            failing_seconds: Some(2),
            error: Some("timeout".to_owned()),
            failures: 3,
        };
        assert_eq!(report(), expected);
        assert!(state.fails() && state.works() && !state.works() && !state.fails());
        assert_eq!((report().failing_seconds, report().error, report().failures), (None, None, 3));
        assert_eq!(watches.report().len(), 2);
        assert!(state.not_served() && !state.not_served());
        assert!(report().not_served && report().failing_seconds.is_none());
        state.works();
        assert!(!report().not_served);
    }
}
