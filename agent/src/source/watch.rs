//! Watches of the API server, one per kind.
//!
//! What was not listed between Init and InitDone is gone, so a list becomes one `Replace`. Every
//! object is converted and dropped at once: what stays in memory is the model.

use std::fmt::Debug;

use futures::StreamExt;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use sluice_core::model::{Change, Kind, Object, ObjectName};
use tokio::sync::mpsc;

use super::{api_types, convert};

/// A watch is renewed after so many seconds: a connection that died without a word is noticed
/// then at the latest.
const RENEW_SECONDS: u32 = 120;

/// Services and slices with these labels are somebody else's, or headless; the API server turns
/// a change of the labels into a deletion or an addition (as kube-proxy's own selectors).
const OURS: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// Starts all watches.
pub fn spawn<E: Send + 'static>(
    client: &Client,
    node_name: &str,
    events: &mpsc::Sender<E>,
    event: fn(Change) -> E,
) {
    let all = || watcher::Config::default().timeout(RENEW_SECONDS);
    let c = || client.clone();
    let tx = || Out { events: events.clone(), event };
    tokio::spawn(follow::<api_types::Node, _>(c(), all(), Kind::Node, convert::node, tx()));
    tokio::spawn(follow::<api_types::Service, _>(
        c(),
        all().labels(OURS),
        Kind::Service,
        convert::service,
        tx(),
    ));
    tokio::spawn(follow::<api_types::EndpointSlice, _>(
        c(),
        all().labels(OURS),
        Kind::EndpointSlice,
        convert::endpoint_slice,
        tx(),
    ));
    tokio::spawn(follow::<api_types::Namespace, _>(
        c(),
        all(),
        Kind::Namespace,
        convert::namespace,
        tx(),
    ));
    tokio::spawn(follow::<api_types::Pod, _>(
        c(),
        all().fields(&format!("spec.nodeName={node_name}")),
        Kind::Pod,
        convert::pod,
        tx(),
    ));
}

struct Out<E> {
    events: mpsc::Sender<E>,
    event: fn(Change) -> E,
}

impl<E> Out<E> {
    async fn send(&self, change: Change) {
        // The receiver is gone only while the agent shuts down.
        let _ = self.events.send((self.event)(change)).await;
    }
}

async fn follow<K, E>(
    client: Client,
    config: watcher::Config,
    kind: Kind,
    convert: fn(K) -> Result<Object, convert::Ignored>,
    out: Out<E>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    E: Send + 'static,
{
    let mut stream = Box::pin(watch(Api::<K>::all(client), config).default_backoff());
    let mut listing = Vec::new();
    let mut last_error: Option<String> = None;
    while let Some(next) = stream.next().await {
        let next = match next {
            Ok(next) => next,
            Err(e) => {
                let text = chain(&e);
                // The same error comes with every attempt: once is enough.
                if last_error.as_ref() != Some(&text) {
                    tracing::warn!(?kind, error = %text, "watch interrupted, going on with what is known");
                    last_error = Some(text);
                }
                continue;
            }
        };
        // Init only says that a list is about to be asked for.
        if !matches!(next, Event::Init) && last_error.take().is_some() {
            tracing::info!(?kind, "watch resumed");
        }
        match next {
            Event::Init => listing.clear(),
            Event::InitApply(object) => match convert(object) {
                Ok(object) => listing.push(object),
                Err(ignored) => ignored.log(),
            },
            Event::InitDone => {
                let objects = std::mem::take(&mut listing);
                tracing::info!(?kind, count = objects.len(), "listed");
                out.send(Change::Replace(kind, objects)).await;
            }
            Event::Apply(object) => {
                let name = name_of(&object);
                match convert(object) {
                    Ok(object) => out.send(Change::Apply(object)).await,
                    Err(ignored) => {
                        ignored.log();
                        out.send(Change::Delete(kind, name)).await;
                    }
                }
            }
            Event::Delete(object) => out.send(Change::Delete(kind, name_of(&object))).await,
        }
    }
}

fn name_of<K: Resource>(object: &K) -> ObjectName {
    convert::object_name(object.meta())
}

/// An error with its causes in one line.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        let s_text = s.to_string();
        if !text.contains(&s_text) {
            text.push_str(": ");
            text.push_str(&s_text);
        }
        source = s.source();
    }
    text
}
