//! Health of the agent, as reported to probes.
//!
//! The responses have the format of kube-proxy's health server (KEP-3836), which the load balancers
//! of several cloud providers read.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde_json::json;

use super::metrics::SyncMetrics;

/// A change that is not applied for this long makes the node unhealthy: twice kube-proxy's sync
/// period.
const UNHEALTHY_AFTER: Duration = Duration::from_secs(60);

/// State shared by the event loop, which updates it, and the servers, which read it.
#[derive(Debug, Default)]
pub struct Health {
    state: Mutex<State>,
    metrics: SyncMetrics,
}

#[derive(Debug)]
struct State {
    ready: bool,
    updated: SystemTime,
    pending_since: Option<Instant>,
    last_error: Option<String>,
}

/// Whether the kernel holds the desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pending {
    /// All changes are applied.
    None,
    /// A change failed with this error and is retried.
    Failed(String),
}

impl Default for State {
    fn default() -> State {
        State { ready: false, updated: SystemTime::now(), pending_since: None, last_error: None }
    }
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records one sync: its duration, its result, and the number of rows by table.
    pub fn synced(&self, took: Duration, pending: &Pending, rows: Vec<(&'static str, usize)>) {
        self.metrics.synced(took, &rows, *pending == Pending::None);
        let mut s = self.state();
        match pending {
            Pending::None => {
                s.updated = SystemTime::now();
                s.pending_since = None;
                s.last_error = None;
            }
            Pending::Failed(error) => {
                s.last_error = Some(error.clone());
                s.pending_since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Records the number of repairs since the start, by kind.
    pub fn repaired(&self, repairs: &BTreeMap<&'static str, u64>) {
        self.metrics.repaired(repairs);
    }

    /// Sets whether CNI ADD can succeed.
    pub fn set_ready(&self, ready: bool) {
        self.state().ready = ready;
        self.metrics.set_ready(ready);
    }

    /// Whether CNI ADD can succeed.
    #[cfg(test)]
    pub fn ready(&self) -> bool {
        self.state().ready
    }

    /// Metrics of syncs.
    pub(super) fn metrics(&self) -> &SyncMetrics {
        &self.metrics
    }

    /// Status code and JSON body of `/healthz` and `/livez`: 503 when a change has been pending for
    /// [`UNHEALTHY_AFTER`].
    pub fn healthz(&self) -> (u16, String) {
        let s = self.state();
        let healthy = s.pending_since.is_none_or(|since| since.elapsed() < UNHEALTHY_AFTER);
        let now = SystemTime::now();
        let updated = if healthy { now } else { s.updated };
        let body = json!({
            "lastUpdated": rfc3339(updated),
            "currentTime": rfc3339(now),
            "nodeEligible": true,
            "healthy": healthy,
            "ready": s.ready,
            "lastError": s.last_error,
        });
        (if healthy { 200 } else { 503 }, body.to_string())
    }

    /// Status code and JSON body of `/readyz`: 503 until CNI ADD can succeed.
    pub fn readyz(&self) -> (u16, String) {
        let s = self.state();
        let body = json!({ "ready": s.ready, "lastError": s.last_error });
        (if s.ready { 200 } else { 503 }, body.to_string())
    }
}

fn rfc3339(at: SystemTime) -> String {
    Timestamp::try_from(at).map(|t| t.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn body((code, text): (u16, String)) -> (u16, Value) {
        (code, serde_json::from_str(&text).unwrap())
    }

    /// Makes the pending change older by `age`.
    fn backdate(health: &Health, age: Duration) {
        let mut state = health.state();
        state.pending_since = state.pending_since.and_then(|since| since.checked_sub(age));
        state.updated -= age;
    }

    #[test]
    fn agent_is_healthy_but_not_ready_before_the_first_sync() {
        let health = Health::default();
        let (code, value) = body(health.healthz());
        assert_eq!((code, &value["healthy"], &value["ready"]), (200, &true.into(), &false.into()));
        assert_eq!(body(health.readyz()), (503, json!({ "ready": false, "lastError": null })));
        health.set_ready(true);
        assert!(health.ready());
        assert_eq!(health.readyz().0, 200);
    }

    #[test]
    fn failed_change_is_reported_at_once_and_unhealthy_after_a_minute() {
        let health = Health::default();
        let failed = Pending::Failed("map FRONTENDS is full".into());
        health.synced(Duration::ZERO, &failed, vec![]);
        let (code, value) = body(health.healthz());
        assert_eq!((code, &value["lastError"]), (200, &"map FRONTENDS is full".into()));
        assert_eq!(value["lastUpdated"], value["currentTime"]);

        backdate(&health, UNHEALTHY_AFTER);
        // A retry that fails again does not restart the clock.
        health.synced(Duration::ZERO, &failed, vec![]);
        let (code, value) = body(health.healthz());
        assert_eq!((code, &value["healthy"]), (503, &false.into()));
        assert_ne!(value["lastUpdated"], value["currentTime"], "time of the last good sync");

        health.synced(Duration::ZERO, &Pending::None, vec![]);
        let (code, value) = body(health.healthz());
        assert_eq!((code, &value["lastError"]), (200, &Value::Null));
    }
}
