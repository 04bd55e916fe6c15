//! Objects and the changes that led to them.
//!
//! Objects are kept as JSON text. A resource version is the number of a change; changes are
//! consecutive, so a watch resumes by subtraction.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::selector::Selector;

/// Namespace and name.
pub(crate) type Key = (String, String);

/// An object in one of its versions.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) json: String,
    namespace: String,
    labels: BTreeMap<String, String>,
}

/// What a request selects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub(crate) resource: String,
    pub(crate) namespace: Option<String>,
    pub(crate) labels: Selector,
    pub(crate) fields: Selector,
    /// Only the metadata of objects is sent.
    pub(crate) metadata_only: bool,
}

impl Scope {
    /// The object as it is sent.
    pub(crate) fn print<'a>(&self, object: &'a Object) -> Cow<'a, str> {
        if !self.metadata_only {
            return Cow::Borrowed(&object.json);
        }
        let value: Value = serde_json::from_str(&object.json).expect("stored JSON");
        let kind = "PartialObjectMetadata";
        let metadata = &value["metadata"];
        json!({ "kind": kind, "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
            .to_string()
            .into()
    }

    fn matches(&self, object: &Object) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == object.namespace)
            && self.labels.matches_labels(&object.labels)
            && (self.fields.is_empty()
                || serde_json::from_str(&object.json)
                    .is_ok_and(|value: Value| self.fields.matches_fields(&value)))
    }
}

#[derive(Debug)]
struct Change {
    resource: String,
    before: Option<Arc<Object>>,
    after: Option<Arc<Object>>,
    /// The deleted object, with the version of the deletion.
    deleted: Option<Arc<Object>>,
}

/// A page of a list.
pub(crate) struct Page {
    pub(crate) objects: Vec<Arc<Object>>,
    pub(crate) version: u64,
    /// The last key of the page, if there are further objects.
    pub(crate) last: Option<Key>,
}

/// Objects with their version.
#[derive(Debug)]
pub struct Backup {
    objects: BTreeMap<String, BTreeMap<Key, Arc<Object>>>,
    version: u64,
}

/// The requested changes are not kept any more.
pub(crate) struct Gone;

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, BTreeMap<Key, Arc<Object>>>,
    changes: VecDeque<Change>,
    version: u64,
    /// Incremented when all watches end.
    generation: u64,
}

impl Inner {
    fn record(&mut self, limit: usize, change: Change) {
        self.changes.push_back(change);
        while self.changes.len() > limit {
            self.changes.pop_front();
        }
    }
}

/// The store of a server.
pub(crate) struct Store {
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
    history: usize,
    watches: AtomicUsize,
}

/// Counts a watch as long as it exists.
pub(crate) struct Counted(Arc<crate::Shared>);

impl Counted {
    pub(crate) fn new(shared: &Arc<crate::Shared>) -> Counted {
        shared.store.watches.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.store.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Plural of a kind in paths.
pub(crate) fn resource(kind: &str) -> String {
    let lower = kind.to_lowercase();
    match lower.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{lower}s"),
    }
}

impl Store {
    pub(crate) fn new(history: usize) -> Store {
        Store {
            inner: Mutex::new(Inner { version: 1, ..Inner::default() }),
            version: watch::Sender::new(1),
            history,
            watches: AtomicUsize::new(0),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn watches(&self) -> usize {
        self.watches.load(Ordering::Relaxed)
    }

    /// Changes with each new version.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(crate) fn apply(&self, mut value: Value) -> u64 {
        let resource = resource(value["kind"].as_str().expect("object without kind"));
        let mut inner = self.inner();
        inner.version += 1;
        let version = inner.version;
        value["metadata"]["resourceVersion"] = version.to_string().into();
        let (key, object) = object(&value);
        let after = Arc::new(object);
        let before =
            inner.objects.entry(resource.clone()).or_default().insert(key, Arc::clone(&after));
        let change = Change { resource, before, after: Some(after), deleted: None };
        inner.record(self.history, change);
        self.version.send_replace(version);
        version
    }

    pub(crate) fn delete(&self, kind: &str, namespace: &str, name: &str) -> bool {
        let resource = resource(kind);
        let mut inner = self.inner();
        let key = (namespace.to_owned(), name.to_owned());
        let Some(before) = inner.objects.get_mut(&resource).and_then(|o| o.remove(&key)) else {
            return false;
        };
        inner.version += 1;
        let version = inner.version;
        let mut value: Value = serde_json::from_str(&before.json).expect("stored JSON");
        value["metadata"]["resourceVersion"] = version.to_string().into();
        let deleted = Some(Arc::new(object(&value).1));
        let change = Change { resource, before: Some(before), after: None, deleted };
        inner.record(self.history, change);
        self.version.send_replace(version);
        true
    }

    pub(crate) fn compact(&self) {
        let mut inner = self.inner();
        inner.changes.clear();
        // The version of the compaction itself, so that every earlier one is too old.
        inner.version += 2;
        self.version.send_replace(inner.version);
    }

    pub(crate) fn backup(&self) -> Backup {
        let inner = self.inner();
        Backup { objects: inner.objects.clone(), version: inner.version }
    }

    pub(crate) fn restore(&self, backup: &Backup) {
        let mut inner = self.inner();
        inner.objects = backup.objects.clone();
        inner.changes.clear();
        inner.version = backup.version;
        inner.generation += 1;
        self.version.send_replace(inner.version);
    }

    pub(crate) fn end_watches(&self) {
        let mut inner = self.inner();
        inner.generation += 1;
        self.version.send_replace(inner.version);
    }

    /// Watches of an earlier generation end.
    pub(crate) fn generation(&self) -> u64 {
        self.inner().generation
    }

    /// Whether the changes until a version have happened.
    pub(crate) fn has_reached(&self, version: u64) -> bool {
        version <= self.inner().version
    }

    pub(crate) fn get(&self, resource: &str, key: &Key) -> Option<Arc<Object>> {
        self.inner().objects.get(resource)?.get(key).cloned()
    }

    /// Objects after `after`, at most `limit`.
    pub(crate) fn list(&self, scope: &Scope, after: Option<Key>, limit: Option<usize>) -> Page {
        let inner = self.inner();
        let mut page = Page { objects: Vec::new(), version: inner.version, last: None };
        let Some(objects) = inner.objects.get(&scope.resource) else { return page };
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        for (key, object) in objects.range((start, Bound::Unbounded)) {
            if !scope.matches(object) {
                continue;
            }
            if limit.is_some_and(|limit| page.objects.len() >= limit) {
                page.last = last;
                break;
            }
            page.objects.push(Arc::clone(object));
            last = Some(key.clone());
        }
        page
    }

    /// Events of a watch after version `since`, as lines of JSON, and the version that they reach. A watch from a
    /// version that does not exist yet has none.
    pub(crate) fn events(&self, scope: &Scope, since: u64) -> Result<(String, u64), Gone> {
        let inner = self.inner();
        if since > inner.version {
            return Ok((String::new(), since));
        }
        let missing = usize::try_from(inner.version.saturating_sub(since)).unwrap_or(usize::MAX);
        let skip = inner.changes.len().checked_sub(missing).ok_or(Gone)?;
        let mut lines = String::new();
        for change in inner.changes.iter().skip(skip).filter(|c| c.resource == scope.resource) {
            let before = change.before.as_ref().is_some_and(|o| scope.matches(o));
            let matching = change.after.as_ref().filter(|o| scope.matches(o));
            let (kind, object) = match (before, matching) {
                (false, None) => continue,
                (false, Some(object)) => ("ADDED", object),
                (true, Some(object)) => ("MODIFIED", object),
                // A changed object that does not match any more is sent in its new version.
                (true, None) => match change.deleted.as_ref().or(change.after.as_ref()) {
                    Some(object) => ("DELETED", object),
                    None => continue,
                },
            };
            line(&mut lines, kind, &scope.print(object));
        }
        Ok((lines, inner.version))
    }
}

/// Appends a watch event.
pub(crate) fn line(lines: &mut String, kind: &str, object: &str) {
    lines.push_str(r#"{"type":""#);
    lines.push_str(kind);
    lines.push_str(r#"","object":"#);
    lines.push_str(object);
    lines.push_str("}\n");
}

fn object(value: &Value) -> (Key, Object) {
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
    let name = text("name");
    assert!(!name.is_empty(), "object without name: {value}");
    let namespace = text("namespace");
    let labels = value["metadata"]["labels"].as_object();
    let labels = labels.into_iter().flatten();
    let labels =
        labels.filter_map(|(key, v)| Some((key.clone(), v.as_str()?.to_owned()))).collect();
    ((namespace.clone(), name), Object { json: value.to_string(), namespace, labels })
}
