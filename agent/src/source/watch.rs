//! Watches of the API server, one per kind.
//!
//! kube's watcher lists, watches and resumes; it asks again as soon as it is polled, and
//! [`super::retry`] decides when that is.
//!
//! An object that is missing between `Init` and `InitDone` was deleted, so a list becomes one `Apply`
//! per object and a `Retain`. An object is converted and sent as soon as it is decoded: a list is
//! never in memory as a whole.

use std::collections::hash_map::RandomState;
use std::fmt::Debug;
use std::hash::BuildHasher;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use sluice_bpf::error_chain;
use sluice_core::model::{Change, Kind, Object, ObjectName};
use tokio::sync::mpsc;

use super::api_server::ApiServerError;
use super::api_types::{EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service, ServiceCIDR};
use super::client::Connection;
use super::convert::{self, ConvertError};
use super::retry::{Failure, Retries};
use crate::config::{ApiAccess, WatchedPods};
use crate::watches::{WatchState, Watches};

/// Shortest time in seconds after which the API server ends a watch, and a random addition, so that
/// the watches of a cluster do not end together. kube accepts less than 295.
const WATCH_TIMEOUT: (u32, u32) = (200, 90);
/// Pause after an API server without the API of a kind, before jitter. It has that API only after an
/// upgrade.
const NOT_SERVED: Duration = Duration::from_secs(600);
/// Longest `Retry-After` that is observed.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Selector for Services and EndpointSlices that Sluice programs: those of another proxy and
/// headless ones are excluded, as in kube-proxy. A label that is added or removed later arrives as
/// a deletion or an addition.
const PROGRAMMED: &str =
    "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// Selector for Pods whose containers run or will run. One that is over is deleted as far as Services
/// and policies are concerned.
const RUNS: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// The receiver of the changes.
struct Sink<E> {
    events: mpsc::Sender<E>,
    event: fn(Change) -> E,
}

/// State of one watch: events in, changes out.
#[derive(Debug)]
struct Watch {
    kind: Kind,
    /// Names of the objects of a list that is not complete yet.
    listed: Vec<ObjectName>,
    /// Whether a list was complete.
    complete: bool,
    state: WatchState,
}

impl<E> Clone for Sink<E> {
    fn clone(&self) -> Sink<E> {
        Sink { events: self.events.clone(), event: self.event }
    }
}

impl Watch {
    fn new(kind: Kind, state: WatchState) -> Watch {
        Watch { kind, listed: Vec::new(), complete: false, state }
    }

    /// The change that an event makes, if any.
    fn apply<K: Resource>(
        &mut self,
        event: Event<K>,
        convert: fn(K) -> Result<Object, ConvertError>,
    ) -> Option<Change> {
        let kind = self.kind;
        match event {
            Event::Init => {
                self.listed.clear();
                None
            }
            Event::InitApply(object) => {
                let object = convert(object).inspect_err(ConvertError::log).ok()?;
                self.listed.push(object.name());
                Some(Change::Apply(object))
            }
            Event::InitDone => {
                let names = std::mem::take(&mut self.listed);
                tracing::info!(?kind, count = names.len(), "objects listed");
                self.state.synced();
                self.complete = true;
                Some(Change::Retain(kind, names))
            }
            Event::Apply(object) => {
                let name = name_of(&object);
                let object = convert(object).inspect_err(ConvertError::log);
                Some(object.map_or_else(|_| Change::Delete(kind, name), Change::Apply))
            }
            Event::Delete(object) => Some(Change::Delete(kind, name_of(&object))),
        }
    }

    /// An API server without the API of a kind has no objects of it. Objects that were listed before
    /// stay in force: during an upgrade, another API server may have them.
    fn known_to_be_empty(&mut self, error: &watcher::Error) -> Option<Change> {
        let empty = self.kind == Kind::ServiceCidr && not_served(error);
        (empty && !std::mem::replace(&mut self.complete, true))
            .then(|| Change::Retain(self.kind, Vec::new()))
    }

    /// Records an error and returns its cause; attempts that fail with the same error are logged
    /// once. An API server without the API of a kind that is optional is not an error.
    fn failed(&mut self, error: &watcher::Error) -> Failure {
        if self.kind == Kind::ServiceCidr && not_served(error) {
            if self.state.not_served() {
                tracing::info!(kind = ?self.kind, "the API server does not have this kind");
            }
            return Failure::Refused(NOT_SERVED);
        }
        let text = error_chain(error);
        if self.state.failed(&text) {
            tracing::warn!(kind = ?self.kind, error = %text, "watch interrupted, retrying; known objects stay in force");
        }
        cause(error)
    }
}

/// Whether the API server does not have the API of the kind.
fn not_served(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 404
    )
}

/// Whether the API server is absent or refuses.
fn cause(error: &watcher::Error) -> Failure {
    let refused = Failure::Refused(Duration::ZERO);
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) if status.code == 401 || status.code >= 500 => Failure::Absent,
            kube::Error::Api(status) => {
                let seconds = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
                Failure::Refused(Duration::from_secs(seconds.into()).min(RETRY_AFTER))
            }
            // The request failed before a response.
            kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::Auth(_) => {
                Failure::Absent
            }
            _ => refused,
        },
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => refused,
    }
}

/// A random number from 0 to 1.
fn random() -> f64 {
    (RandomState::new().hash_one(0) >> 11) as f64 / (1u64 << 53) as f64
}

/// Starts all watches. Returns the connection that they share.
///
/// # Errors
/// Address or credentials are missing or not valid.
pub async fn spawn<E: Send + 'static>(
    access: &ApiAccess,
    node_name: &str,
    watched_pods: WatchedPods,
    events: &mpsc::Sender<E>,
    event: fn(Change) -> E,
    watches: &Watches,
) -> Result<Connection, ApiServerError> {
    let retries = Retries::new(random);
    let connection = Connection::open(access.clone(), retries.clone()).await?;
    let sink = Sink { events: events.clone(), event };
    let common = Common { connection: connection.clone(), retries, watches: watches.clone(), sink };
    let all = watcher::Config::default();
    let programmed = all.clone().labels(PROGRAMMED);
    let pods = match watched_pods {
        WatchedPods::All => RUNS.to_owned(),
        WatchedPods::Node => format!("{RUNS},spec.nodeName={node_name}"),
    };
    common.watch::<Node>(Kind::Node, all.clone(), convert::node);
    common.watch::<Service>(Kind::Service, programmed.clone(), convert::service);
    common.watch::<EndpointSlice>(Kind::EndpointSlice, programmed, convert::endpoint_slice);
    common.watch::<Namespace>(Kind::Namespace, all.clone(), convert::namespace);
    common.watch::<ServiceCIDR>(Kind::ServiceCidr, all.clone(), convert::service_cidr);
    common.watch::<NetworkPolicy>(Kind::NetworkPolicy, all.clone(), convert::network_policy);
    common.watch::<Pod>(Kind::Pod, all.fields(&pods), convert::pod);
    Ok(connection)
}

/// What all watches have in common.
struct Common<E> {
    connection: Connection,
    retries: Retries,
    watches: Watches,
    sink: Sink<E>,
}

impl<E: Send + 'static> Common<E> {
    /// Watches the objects of a kind.
    fn watch<K>(
        &self,
        kind: Kind,
        config: watcher::Config,
        convert: fn(K) -> Result<Object, ConvertError>,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let state = self.watches.add(convert::kind_name(kind));
        let api = Api::<K>::all(self.connection.client(state.clone()));
        let (least, more) = WATCH_TIMEOUT;
        let config = config.timeout(least + (random() * f64::from(more)) as u32);
        let mut stream = Box::pin(watcher(api, config));
        let mut retry = self.retries.watch();
        let sink = self.sink.clone();
        tokio::spawn(async move {
            let mut watch = Watch::new(kind, state);
            while let Some(next) = stream.next().await {
                match next {
                    Ok(event) => {
                        if !matches!(event, Event::Init) {
                            retry.responded();
                        }
                        if let Some(change) = watch.apply(event, convert)
                            && sink.events.send((sink.event)(change)).await.is_err()
                        {
                            // The agent is stopping.
                            return;
                        }
                    }
                    Err(e) => {
                        let failure = watch.failed(&e);
                        if let Some(change) = watch.known_to_be_empty(&e)
                            && sink.events.send((sink.event)(change)).await.is_err()
                        {
                            return;
                        }
                        retry.wait(failure).await;
                    }
                }
            }
        });
    }
}

fn name_of<K: Resource>(object: &K) -> ObjectName {
    convert::object_name(object.meta())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        serde_json::from_value(serde_json::json!({ "metadata": { "name": name } })).unwrap()
    }

    fn watch() -> Watch {
        Watch::new(Kind::Node, Watches::default().add("Node"))
    }

    fn apply(watch: &mut Watch, event: Event<Node>) -> Option<Change> {
        watch.apply(event, convert::node)
    }

    #[test]
    fn list_is_applied_object_by_object_and_ends_with_all_names() {
        let mut watch = watch();
        assert!(apply(&mut watch, Event::Init).is_none());
        assert!(apply(&mut watch, Event::InitApply(node("of an aborted list"))).is_some());
        assert!(apply(&mut watch, Event::Init).is_none());
        for name in ["a", "", "b"] {
            let applied = apply(&mut watch, Event::InitApply(node(name)));
            let applied = applied.map(|change| match change {
                Change::Apply(object) => object.name().to_string(),
                other => panic!("{other:?}"),
            });
            assert_eq!(applied.as_deref(), (!name.is_empty()).then_some(name));
        }
        let names = ["a", "b"].map(ObjectName::cluster).to_vec();
        assert_eq!(apply(&mut watch, Event::InitDone), Some(Change::Retain(Kind::Node, names)));
    }

    #[test]
    fn later_events_apply_or_delete_one_object() {
        let mut watch = watch();
        match apply(&mut watch, Event::Apply(node("a"))) {
            Some(Change::Apply(object)) => assert_eq!(object.name().to_string(), "a"),
            other => panic!("{other:?}"),
        }
        for event in [Event::Delete(node("a")), Event::Apply(node(""))] {
            let change = apply(&mut watch, event);
            assert!(matches!(change, Some(Change::Delete(Kind::Node, _))), "{change:?}");
        }
    }

    #[test]
    fn absent_and_refusing_servers_are_distinguished() {
        let api = |code, seconds| {
            let details = kube::core::response::StatusDetails {
                name: String::new(),
                group: String::new(),
                kind: String::new(),
                uid: String::new(),
                causes: Vec::new(),
                retry_after_seconds: seconds,
            };
            let status = kube::core::Status { code, details: Some(details), ..Default::default() };
            watcher::Error::WatchStartFailed(kube::Error::Api(status.boxed()))
        };
        let refused = |seconds| Failure::Refused(Duration::from_secs(seconds));
        for (code, seconds, expected) in [
            (401, 0, Failure::Absent),
            (503, 1, Failure::Absent),
            (403, 0, refused(0)),
            (429, 7, refused(7)),
            (429, 100_000, refused(60)),
        ] {
            assert_eq!(cause(&api(code, seconds)), expected, "{code}");
        }
        let connect = kube::Error::Service("connection refused".into());
        assert_eq!(cause(&watcher::Error::InitialListFailed(connect)), Failure::Absent);
        assert_eq!(cause(&watcher::Error::NoResourceVersion), refused(0));
    }

    #[test]
    fn jitter_is_between_0_and_1_and_varies() {
        let numbers: Vec<f64> = (0..100).map(|_| random()).collect();
        assert!(numbers.iter().all(|n| (0.0..=1.0).contains(n)), "{numbers:?}");
        assert!(numbers.iter().any(|n| *n < 0.5) && numbers.iter().any(|n| *n > 0.5));
    }
}
