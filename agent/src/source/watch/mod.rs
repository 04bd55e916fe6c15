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

use futures::{Stream, StreamExt};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use sluice_bpf::error_chain;
use sluice_core::model::{Change, Kind, Object, ObjectName};
use tokio::sync::mpsc;

use super::api_server::ApiServerError;
use super::api_types::{
    ClusterNetworkPolicy, EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service, ServiceCIDR,
};
use super::client::Connection;
use super::convert::{self, ConvertError};
use super::definition::{self, Definition};
use super::retry::{Failure, Retries, Retry};
use super::watch_error::{cause, not_served};
use crate::config::{ApiAccess, WatchedPods};
use crate::watches::{WatchState, Watches};

/// Shortest time in seconds after which the API server ends a watch, and a random addition, so that
/// the watches of a cluster do not end together. kube accepts less than 295.
const WATCH_TIMEOUT: (u32, u32) = (200, 90);
/// Pause after an API server without the API of a kind, before jitter. It has that API only after an
/// upgrade.
const NOT_SERVED: Duration = Duration::from_secs(600);
/// Kind of the definition, in the state of its watch.
const DEFINITION: &str = "CustomResourceDefinition";

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

/// What it means that the API server does not have the API of a kind.
#[derive(Debug)]
enum Absence {
    /// An error.
    Failure,
    /// There are no objects of the kind.
    Empty,
    /// The same, and the definition of the kind may be installed or deleted at any time.
    Undefined(Definition),
}

/// State of one watch: events in, changes out.
#[derive(Debug)]
struct Watch {
    kind: Kind,
    absence: Absence,
    /// Names of the objects of a list that is not complete yet.
    listed: Vec<ObjectName>,
    /// Whether a list was complete, or the kind is known to have no objects.
    complete: bool,
    /// The kind is known to have no objects since the last list.
    empty: bool,
    state: WatchState,
}

impl<E> Clone for Sink<E> {
    fn clone(&self) -> Sink<E> {
        Sink { events: self.events.clone(), event: self.event }
    }
}

impl Watch {
    fn new(kind: Kind, absence: Absence, state: WatchState) -> Watch {
        Watch { kind, absence, listed: Vec::new(), complete: false, empty: false, state }
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
                (self.complete, self.empty) = (true, false);
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
    /// stay in force, and nothing is known before the first list, while the kind may be defined: another API
    /// server may have it, or another version of it.
    fn known_to_be_empty(&mut self, error: &watcher::Error) -> Option<Change> {
        let is_empty = not_served(error)
            && match &self.absence {
                Absence::Failure => false,
                Absence::Empty => !self.complete,
                Absence::Undefined(definition) => {
                    definition.exists() == Some(false)
                        || !self.complete && definition.is_unwatched()
                }
            };
        if !is_empty {
            return None;
        }
        self.complete = true;
        (!std::mem::replace(&mut self.empty, true)).then(|| Change::Retain(self.kind, Vec::new()))
    }

    /// Sends the changes of a stream that asks the API server again as soon as it is polled. Ends with the
    /// stream, or when the receiver of the changes is closed.
    async fn follow<K: Resource, E>(
        mut self,
        mut stream: impl Stream<Item = watcher::Result<Event<K>>> + Unpin,
        convert: fn(K) -> Result<Object, ConvertError>,
        mut retry: Retry,
        sink: Sink<E>,
    ) {
        while let Some(next) = stream.next().await {
            match next {
                Ok(event) => {
                    if !matches!(event, Event::Init) {
                        retry.responded();
                    }
                    if let Some(change) = self.apply(event, convert)
                        && sink.events.send((sink.event)(change)).await.is_err()
                    {
                        // The agent is stopping.
                        return;
                    }
                }
                Err(e) => {
                    let failure = self.failed(&e);
                    if let Some(change) = self.known_to_be_empty(&e)
                        && sink.events.send((sink.event)(change)).await.is_err()
                    {
                        return;
                    }
                    self.wait(&e, failure, &mut retry).await;
                }
            }
        }
    }

    /// Waits until the next attempt after an error.
    async fn wait(&mut self, error: &watcher::Error, failure: Failure, retry: &mut Retry) {
        match &mut self.absence {
            Absence::Undefined(definition) if not_served(error) => tokio::select! {
                () = retry.wait(failure) => {}
                () = definition.changed() => retry.woken().await,
            },
            _ => retry.wait(failure).await,
        }
    }

    /// Records an error and returns its cause; attempts that fail with the same error are logged
    /// once. An API server without the API of a kind that is optional is not an error.
    fn failed(&mut self, error: &watcher::Error) -> Failure {
        match &mut self.absence {
            Absence::Empty if not_served(error) => {
                self.not_served();
                return Failure::Refused(NOT_SERVED);
            }
            Absence::Undefined(definition) if not_served(error) && !definition.is_broken() => {
                let pause = definition.pause();
                if definition.exists() == Some(false) || definition.is_unwatched() {
                    self.not_served();
                }
                return Failure::Refused(pause);
            }
            _ => {}
        }
        let text = error_chain(error);
        if self.state.failed(&text) {
            tracing::warn!(kind = ?self.kind, error = %text, "watch interrupted, retrying; known objects stay in force");
        }
        match &mut self.absence {
            Absence::Undefined(definition) if not_served(error) => {
                Failure::Refused(definition.pause())
            }
            _ => cause(error),
        }
    }

    fn not_served(&self) {
        if self.state.not_served() {
            tracing::info!(kind = ?self.kind, "the API server does not have this kind");
        }
    }
}

/// A random number from 0 to 1.
fn random() -> f64 {
    (RandomState::new().hash_one(0) >> 11) as f64 / (1u64 << 53) as f64
}

fn with_timeout(config: watcher::Config) -> watcher::Config {
    let (least, more) = WATCH_TIMEOUT;
    config.timeout(least + (random() * f64::from(more)) as u32)
}

/// Starts all watches. Returns the connection that they share. A watch without data is compared with the server
/// after the time `silent_after`.
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
    silent_after: Duration,
) -> Result<Connection, ApiServerError> {
    let retries = Retries::new(random);
    let connection = Connection::open(access.clone(), retries.clone(), silent_after).await?;
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
    common.watch::<NetworkPolicy>(Kind::NetworkPolicy, all.clone(), convert::network_policy);
    common.watch::<Pod>(Kind::Pod, all.clone().fields(&pods), convert::pod);
    let (kind, convert) = (Kind::ServiceCidr, convert::service_cidr);
    common.watch_optional::<ServiceCIDR>(kind, all.clone(), convert, Absence::Empty);
    let absence = Absence::Undefined(common.watch_definition(all.clone()));
    let (kind, convert) = (Kind::ClusterNetworkPolicy, convert::cluster_network_policy);
    common.watch_optional::<ClusterNetworkPolicy>(kind, all, convert, absence);
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
    /// Watches the definition of ClusterNetworkPolicies.
    fn watch_definition(&self, config: watcher::Config) -> Definition {
        let state = self.watches.add(DEFINITION);
        definition::spawn(&self.connection, state, self.retries.watch(), with_timeout(config))
    }

    /// Watches the objects of a kind that every API server has.
    fn watch<K>(
        &self,
        kind: Kind,
        config: watcher::Config,
        convert: fn(K) -> Result<Object, ConvertError>,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        self.watch_optional(kind, config, convert, Absence::Failure);
    }

    /// Watches the objects of a kind.
    fn watch_optional<K>(
        &self,
        kind: Kind,
        config: watcher::Config,
        convert: fn(K) -> Result<Object, ConvertError>,
        absence: Absence,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let state = self.watches.add(convert::kind_name(kind));
        let api = Api::<K>::all(self.connection.client(state.clone()));
        let stream = Box::pin(watcher(api, with_timeout(config)));
        let watch = Watch::new(kind, absence, state);
        tokio::spawn(watch.follow(stream, convert, self.retries.watch(), self.sink.clone()));
    }
}

fn name_of<K: Resource>(object: &K) -> ObjectName {
    convert::object_name(object.meta())
}

#[cfg(test)]
mod tests;
