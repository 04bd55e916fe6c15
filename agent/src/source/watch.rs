//! Watches of the API server, one per kind.
//!
//! An object that is missing between `Init` and `InitDone` was deleted, so a list becomes one
//! `Replace`. An object is converted as soon as it is decoded: only the model stays in memory.

use std::fmt::Debug;

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use sluice_bpf::error_chain;
use sluice_core::model::{Change, Kind, Object, ObjectName};
use tokio::sync::mpsc;

use super::api_types::{EndpointSlice, Namespace, Node, Pod, Service};
use super::convert::{self, ConvertError};

/// Seconds after which the API server ends a watch. Bounds the time that a broken connection stays
/// undetected.
const WATCH_TIMEOUT: u32 = 120;

/// Selector for Services and EndpointSlices that Sluice programs: those of another proxy and
/// headless ones are excluded, as in kube-proxy. A label that is added or removed later arrives as
/// a deletion or an addition.
const PROGRAMMED: &str =
    "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// The receiver of the changes.
struct Sink<E> {
    events: mpsc::Sender<E>,
    event: fn(Change) -> E,
}

/// State of one watch: events in, changes out.
#[derive(Debug)]
struct Watch {
    kind: Kind,
    listed: Vec<Object>,
    error: Option<String>,
}

impl<E> Clone for Sink<E> {
    fn clone(&self) -> Sink<E> {
        Sink { events: self.events.clone(), event: self.event }
    }
}

impl Watch {
    fn new(kind: Kind) -> Watch {
        Watch { kind, listed: Vec::new(), error: None }
    }

    /// The change that an event makes, if any.
    fn apply<K: Resource>(
        &mut self,
        event: Event<K>,
        convert: fn(K) -> Result<Object, ConvertError>,
    ) -> Option<Change> {
        let kind = self.kind;
        // Init precedes the list request, so it does not show that the API server responds.
        if !matches!(event, Event::Init) && self.error.take().is_some() {
            tracing::info!(?kind, "watch resumed");
        }
        match event {
            Event::Init => {
                self.listed.clear();
                None
            }
            Event::InitApply(object) => {
                self.listed.extend(convert(object).inspect_err(ConvertError::log).ok());
                None
            }
            Event::InitDone => {
                let objects = std::mem::take(&mut self.listed);
                tracing::info!(?kind, count = objects.len(), "objects listed");
                Some(Change::Replace(kind, objects))
            }
            Event::Apply(object) => {
                let name = name_of(&object);
                let object = convert(object).inspect_err(ConvertError::log);
                Some(object.map_or_else(|_| Change::Delete(kind, name), Change::Apply))
            }
            Event::Delete(object) => Some(Change::Delete(kind, name_of(&object))),
        }
    }

    /// Logs an error; attempts that fail with the same error are logged once.
    fn failed(&mut self, error: &watcher::Error) {
        let text = error_chain(error);
        if self.error.as_ref() != Some(&text) {
            tracing::warn!(kind = ?self.kind, error = %text, "watch interrupted, retrying; known objects stay in force");
            self.error = Some(text);
        }
    }
}

/// Starts all watches.
pub fn spawn<E: Send + 'static>(
    client: &Client,
    node_name: &str,
    events: &mpsc::Sender<E>,
    event: fn(Change) -> E,
) {
    let sink = Sink { events: events.clone(), event };
    let all = watcher::Config::default().timeout(WATCH_TIMEOUT);
    let programmed = all.clone().labels(PROGRAMMED);
    let of_node = all.clone().fields(&format!("spec.nodeName={node_name}"));
    watch::<Node, E>(client, Kind::Node, all.clone(), convert::node, &sink);
    watch::<Service, E>(client, Kind::Service, programmed.clone(), convert::service, &sink);
    watch::<EndpointSlice, E>(
        client,
        Kind::EndpointSlice,
        programmed,
        convert::endpoint_slice,
        &sink,
    );
    watch::<Namespace, E>(client, Kind::Namespace, all, convert::namespace, &sink);
    watch::<Pod, E>(client, Kind::Pod, of_node, convert::pod, &sink);
}

fn watch<K, E>(
    client: &Client,
    kind: Kind,
    config: watcher::Config,
    convert: fn(K) -> Result<Object, ConvertError>,
    sink: &Sink<E>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    E: Send + 'static,
{
    let mut stream = Box::pin(watcher(Api::<K>::all(client.clone()), config).default_backoff());
    let sink = sink.clone();
    tokio::spawn(async move {
        let mut watch = Watch::new(kind);
        while let Some(next) = stream.next().await {
            match next {
                Ok(event) => {
                    if let Some(change) = watch.apply(event, convert)
                        && sink.events.send((sink.event)(change)).await.is_err()
                    {
                        // The agent is stopping.
                        return;
                    }
                }
                Err(e) => watch.failed(&e),
            }
        }
    });
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

    fn apply(watch: &mut Watch, event: Event<Node>) -> Option<Change> {
        watch.apply(event, convert::node)
    }

    fn names(objects: &[Object]) -> Vec<String> {
        objects.iter().map(|o| o.name().to_string()).collect()
    }

    #[test]
    fn list_becomes_one_replace_and_an_aborted_list_is_discarded() {
        let mut watch = Watch::new(Kind::Node);
        assert!(apply(&mut watch, Event::Init).is_none());
        assert!(apply(&mut watch, Event::InitApply(node("aborted"))).is_none());
        assert!(apply(&mut watch, Event::Init).is_none());
        for name in ["a", "", "b"] {
            assert!(apply(&mut watch, Event::InitApply(node(name))).is_none());
        }
        match apply(&mut watch, Event::InitDone) {
            Some(Change::Replace(Kind::Node, objects)) => assert_eq!(names(&objects), ["a", "b"]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn later_events_apply_or_delete_one_object() {
        let mut watch = Watch::new(Kind::Node);
        match apply(&mut watch, Event::Apply(node("a"))) {
            Some(Change::Apply(object)) => assert_eq!(object.name().name, "a"),
            other => panic!("{other:?}"),
        }
        for event in [Event::Delete(node("a")), Event::Apply(node(""))] {
            let change = apply(&mut watch, event);
            assert!(matches!(change, Some(Change::Delete(Kind::Node, _))), "{change:?}");
        }
    }

    #[test]
    fn error_lasts_until_the_api_server_answers() {
        let mut watch = Watch::new(Kind::Node);
        watch.failed(&watcher::Error::NoResourceVersion);
        apply(&mut watch, Event::Init);
        assert!(watch.error.is_some());
        apply(&mut watch, Event::InitDone);
        assert!(watch.error.is_none());
    }
}
