//! The agent's own state, as probes see it.
//!
//! The answers have the form of kube-proxy's health server (KEP-3836): load balancers of several
//! clouds read them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::jiff::Timestamp;
use serde_json::json;

/// A change that could not be applied for so long makes the node unhealthy: twice the interval in
/// which kube-proxy syncs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shared by the event loop, which writes, and the servers, which read.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ready: bool,
    updated: SystemTime,
    pending_since: Option<Instant>,
    last_error: Option<String>,
    syncs: u64,
    sync_errors: u64,
    sync_seconds: f64,
    rows: Vec<(&'static str, usize)>,
}

/// Whether everything that was asked for is in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing is left to do.
    None,
    /// This went wrong and will be tried again.
    Failed(String),
}

/// Numbers for /metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    /// Rounds of writing tables.
    pub syncs: u64,
    /// Rounds that failed.
    pub sync_errors: u64,
    /// Time spent in them.
    pub sync_seconds: f64,
    /// Seconds since the epoch of the newest good round.
    pub last_sync: f64,
    /// 1 once pods can be wired.
    pub ready: bool,
    /// Rows per table.
    pub rows: Vec<(&'static str, usize)>,
}

impl Default for Health {
    fn default() -> Health {
        Health {
            state: Mutex::new(State {
                ready: false,
                updated: SystemTime::now(),
                pending_since: None,
                last_error: None,
                syncs: 0,
                sync_errors: 0,
                sync_seconds: 0.0,
                rows: Vec::new(),
            }),
        }
    }
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records one round of the event loop.
    pub fn synced(&self, took: Duration, pending: &Pending, rows: Vec<(&'static str, usize)>) {
        let mut s = self.state();
        s.syncs += 1;
        s.sync_seconds += took.as_secs_f64();
        s.rows = rows;
        match pending {
            Pending::None => {
                s.updated = SystemTime::now();
                s.pending_since = None;
                s.last_error = None;
            }
            Pending::Failed(error) => {
                s.sync_errors += 1;
                s.last_error = Some(error.clone());
                s.pending_since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Pods can be wired from now on.
    pub fn set_ready(&self, ready: bool) {
        self.state().ready = ready;
    }

    /// Whether pods can be wired.
    pub fn ready(&self) -> bool {
        self.state().ready
    }

    /// Numbers for /metrics.
    pub fn numbers(&self) -> Numbers {
        let s = self.state();
        let epoch = s.updated.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Numbers {
            syncs: s.syncs,
            sync_errors: s.sync_errors,
            sync_seconds: s.sync_seconds,
            last_sync: epoch.as_secs_f64(),
            ready: s.ready,
            rows: s.rows.clone(),
        }
    }

    /// Status code and JSON body of /healthz and /livez.
    pub fn answer(&self) -> (u16, String) {
        let s = self.state();
        let healthy = s.pending_since.is_none_or(|since| since.elapsed() < PATIENCE);
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

    /// Status code and JSON body of /readyz.
    pub fn readiness(&self) -> (u16, String) {
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
    use super::*;

    #[test]
    fn healthy_before_the_first_sync_but_not_ready() {
        let h = Health::default();
        assert_eq!(h.answer().0, 200);
        assert_eq!(h.readiness().0, 503);
    }

    #[test]
    fn an_error_is_told_at_once_and_unhealthy_only_after_a_while() {
        let h = Health::default();
        h.synced(Duration::ZERO, &Pending::Failed("map FRONTENDS is full".into()), vec![]);
        let (code, body) = h.answer();
        assert_eq!(code, 200);
        assert!(body.contains("map FRONTENDS is full"));
        h.state().pending_since = Instant::now().checked_sub(PATIENCE);
        assert_eq!(h.answer().0, 503);
        h.synced(Duration::ZERO, &Pending::None, vec![]);
        assert_eq!(h.answer().0, 200);
        assert_eq!(h.numbers().sync_errors, 1);
    }
}
