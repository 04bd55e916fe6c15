//! Health of the agent, as reported to probes.
//!
//! The responses have the format of kube-proxy's health server (KEP-3836, KEP-3458), which the load
//! balancers of several cloud providers read. `/healthz` concerns the node as a target of load
//! balancers; `/livez`, which the liveness probe uses, ignores the Node object, because a restart
//! of the agent changes nothing about it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::metrics::SyncMetrics;

/// A change that is not applied for this long makes the node unhealthy: twice kube-proxy's sync
/// period.
const UNHEALTHY_AFTER: Duration = Duration::from_secs(60);
/// An event loop without a heartbeat for this long is stuck: six times
/// [`crate::event_loop::HEARTBEAT`]. A pass over 50,000 Services takes less than two seconds.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// State shared by the event loop, which updates it, and the servers, which read it from another
/// thread.
#[derive(Debug, Default)]
pub struct Health {
    state: Mutex<State>,
    metrics: SyncMetrics,
}

#[derive(Debug)]
struct State {
    ready: bool,
    node_eligible: bool,
    alive: Instant,
    updated: SystemTime,
    pending_since: Option<Instant>,
    last_error: Option<String>,
}

impl State {
    /// Whether changes reach the programs.
    fn healthy(&self) -> bool {
        let pending = self.pending_since.map(|since| since.elapsed());
        pending.is_none_or(|age| age < UNHEALTHY_AFTER) && self.alive.elapsed() < STUCK_AFTER
    }
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
        State {
            ready: false,
            node_eligible: true,
            alive: Instant::now(),
            updated: SystemTime::now(),
            pending_since: None,
            last_error: None,
        }
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

    /// The event loop shows that it is not stuck.
    pub fn alive(&self) {
        self.state().alive = Instant::now();
    }

    /// Sets whether load balancers may send to the node.
    pub fn set_node_eligible(&self, eligible: bool) {
        self.state().node_eligible = eligible;
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

    /// Whether changes reach the programs; independent of the Node object.
    pub fn healthy(&self) -> bool {
        self.state().healthy()
    }

    /// Metrics of syncs.
    pub fn metrics(&self) -> &SyncMetrics {
        &self.metrics
    }

    /// Status code and JSON body of `/healthz`: 503 when a change has been pending for
    /// [`UNHEALTHY_AFTER`], when the event loop is stuck, or when the Node is absent or about to be
    /// removed.
    pub fn healthz(&self) -> (u16, String) {
        let s = self.state();
        respond(&s, s.healthy() && s.node_eligible, Some(s.node_eligible))
    }

    /// Status code and JSON body of `/livez`: `/healthz` without the Node.
    pub fn livez(&self) -> (u16, String) {
        let s = self.state();
        respond(&s, s.healthy(), None)
    }

    /// Status code and JSON body of `/readyz`: 503 until CNI ADD can succeed.
    pub fn readyz(&self) -> (u16, String) {
        let s = self.state();
        let body = json!({ "ready": s.ready, "lastError": s.last_error });
        (if s.ready { 200 } else { 503 }, body.to_string())
    }
}

/// The response in kube-proxy's format. Both families are programmed together.
fn respond(s: &State, healthy: bool, node_eligible: Option<bool>) -> (u16, String) {
    let now = SystemTime::now();
    let time = |healthy| rfc3339(if healthy { now } else { s.updated });
    let mut body = Map::new();
    body.insert("lastUpdated".to_owned(), time(healthy).into());
    body.insert("currentTime".to_owned(), rfc3339(now).into());
    if let Some(eligible) = node_eligible {
        body.insert("nodeEligible".to_owned(), eligible.into());
    }
    body.insert("healthy".to_owned(), healthy.into());
    let family = json!({ "lastUpdated": time(s.healthy()), "healthy": s.healthy() });
    body.insert("status".to_owned(), json!({ "IPv4": family, "IPv6": family }));
    (if healthy { 200 } else { 503 }, Value::Object(body).to_string())
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

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    #[test]
    fn agent_is_healthy_but_not_ready_before_the_first_sync() {
        let health = Health::default();
        let (code, value) = body(health.healthz());
        assert_eq!((code, &value["healthy"]), (200, &true.into()));
        assert_eq!(body(health.readyz()), (503, json!({ "ready": false, "lastError": null })));
        health.set_ready(true);
        assert!(health.ready());
        assert_eq!(health.readyz().0, 200);
    }

    #[test]
    fn contract_6_6_responses_have_the_fields_of_kube_proxy() {
        let health = Health::default();
        let (_, healthz) = body(health.healthz());
        let fields = ["currentTime", "healthy", "lastUpdated", "nodeEligible", "status"];
        assert_eq!(keys(&healthz), fields);
        assert_eq!(keys(&healthz["status"]), ["IPv4", "IPv6"]);
        for family in ["IPv4", "IPv6"] {
            assert_eq!(keys(&healthz["status"][family]), ["healthy", "lastUpdated"]);
        }
        let (_, livez) = body(health.livez());
        assert_eq!(keys(&livez), ["currentTime", "healthy", "lastUpdated", "status"]);
    }

    #[test]
    fn contract_6_5_failed_change_is_reported_at_once_and_unhealthy_after_a_minute() {
        let health = Health::default();
        let failed = Pending::Failed("map FRONTENDS is full".into());
        health.synced(Duration::ZERO, &failed, vec![]);
        let (_, ready) = body(health.readyz());
        assert_eq!(ready["lastError"], "map FRONTENDS is full");
        let (code, value) = body(health.healthz());
        assert_eq!((code, &value["healthy"]), (200, &true.into()));
        assert_eq!(value["lastUpdated"], value["currentTime"]);

        backdate(&health, UNHEALTHY_AFTER);
        // A retry that fails again does not restart the clock.
        health.synced(Duration::ZERO, &failed, vec![]);
        for (code, value) in [body(health.healthz()), body(health.livez())] {
            assert_eq!((code, &value["healthy"]), (503, &false.into()));
            assert_eq!(value["status"]["IPv4"]["healthy"], false);
            assert_ne!(value["lastUpdated"], value["currentTime"], "time of the last good sync");
        }

        health.synced(Duration::ZERO, &Pending::None, vec![]);
        assert_eq!((health.healthz().0, health.livez().0), (200, 200));
        assert_eq!(body(health.readyz()).1["lastError"], Value::Null);
    }

    #[test]
    fn ineligible_node_is_unhealthy_but_its_agent_lives() {
        let health = Health::default();
        health.set_node_eligible(false);
        let (code, value) = body(health.healthz());
        assert_eq!((code, &value["nodeEligible"]), (503, &false.into()));
        assert_eq!(
            (&value["healthy"], &value["status"]["IPv6"]["healthy"]),
            (&false.into(), &true.into())
        );
        assert_eq!(health.livez().0, 200);
        health.set_node_eligible(true);
        assert_eq!(health.healthz().0, 200);
    }

    #[test]
    fn stuck_event_loop_is_unhealthy_until_it_runs_again() {
        let health = Health::default();
        let stuck = Instant::now().checked_sub(STUCK_AFTER).unwrap();
        health.state().alive = stuck + Duration::from_secs(5);
        assert_eq!(health.livez().0, 200);
        health.state().alive = stuck;
        assert_eq!((health.livez().0, health.healthz().0), (503, 503));
        health.alive();
        assert_eq!((health.livez().0, health.healthz().0), (200, 200));
    }
}
