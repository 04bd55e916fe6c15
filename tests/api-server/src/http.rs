//! Requests and responses.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Collected, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode, Version};
use serde_json::json;
use tokio::time::Instant as Clock;

use crate::selector::Selector;
use crate::store::{Counted, Key, Scope, line};
use crate::{Fault, Shared};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Timeout of a watch whose request has none.
const WATCH_TIMEOUT: Duration = Duration::from_secs(1800);

pub(crate) async fn respond(
    shared: &Arc<Shared>,
    request: hyper::Request<Incoming>,
) -> Response<Body> {
    let authorization =
        request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let accept = request.headers().get(ACCEPT).and_then(|v| v.to_str().ok());
    let accept = accept.unwrap_or_default().to_owned();
    let metadata_only = accept.contains(";as=PartialObjectMetadata");
    let http2 = request.version() == Version::HTTP_2;
    let is_apply = request.method() == Method::PATCH
        && request.headers().get(CONTENT_TYPE).is_some_and(|v| v == "application/apply-patch+yaml");
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
    let request = crate::Request { at: Instant::now(), http2, path, query, authorization, accept };
    let parameters = Parameters::parse(&request.query);
    let (watch, path) = (request.is_watch(), request.path.clone());
    let token = shared.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let allowed =
        token.is_none_or(|token| request.authorization == Some(format!("Bearer {token}")));
    shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);

    let fault = *shared.fault.borrow();
    match fault {
        Fault::Slow(delay) => tokio::time::sleep(delay).await,
        Fault::Status(code) => return failure(code, "injected fault"),
        Fault::None | Fault::Down | Fault::Silent => {}
    }
    if !allowed {
        return failure(401, "Unauthorized");
    }
    let Some((mut scope, name)) = route(&path) else {
        let known = matches!(path.as_str(), "/livez" | "/readyz" | "/healthz" | "/version");
        return if known { text(200, "ok".to_owned()) } else { failure(404, "no such path") };
    };
    let missing = shared.missing.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if missing.contains(&scope.resource) {
        return failure(404, "the server could not find the requested resource");
    }
    if is_apply {
        return apply(shared, &body);
    }
    if let Some(name) = name {
        let key = (scope.namespace.unwrap_or_default(), name);
        return match shared.store.get(&scope.resource, &key) {
            Some(object) => text(200, object.json.clone()),
            None => failure(404, "no such object"),
        };
    }
    scope.metadata_only = metadata_only;
    scope.labels = Selector::parse(parameters.get("labelSelector"));
    scope.fields = Selector::parse(parameters.get("fieldSelector"));
    if watch {
        watch_response(shared, scope, &parameters)
    } else {
        list(shared, &scope, &parameters)
    }
}

/// Server-side apply by one field manager: the object is replaced.
fn apply(shared: &Shared, body: &[u8]) -> Response<Body> {
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(object) if object["kind"].is_string() && object["metadata"]["name"].is_string() => {
            shared.store.apply(object.clone());
            text(200, object.to_string())
        }
        _ => failure(400, "not an object"),
    }
}

/// Decoded parameters of a query.
struct Parameters(HashMap<String, String>);

impl Parameters {
    fn parse(query: &str) -> Parameters {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Parameters(pairs.map(|(key, value)| (key.to_owned(), decode(value))).collect())
    }

    fn get(&self, key: &str) -> &str {
        self.0.get(key).map(String::as_str).unwrap_or_default()
    }
}

/// Decodes `%XX` and `+`.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Resource and namespace of a path, and the name of a single object.
fn route(path: &str) -> Option<(Scope, Option<String>)> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    match parts.next()? {
        "api" => parts.next()?,
        "apis" => parts.nth(1)?,
        _ => return None,
    };
    let rest: Vec<&str> = parts.collect();
    let (namespace, rest) = match rest.as_slice() {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let (resource, name) = match rest {
        [resource] => (*resource, None),
        [resource, name] => (*resource, Some((*name).to_owned())),
        _ => return None,
    };
    let scope = Scope {
        resource: resource.to_owned(),
        namespace: namespace.map(str::to_owned),
        ..Scope::default()
    };
    Some((scope, name))
}

fn list(shared: &Shared, scope: &Scope, parameters: &Parameters) -> Response<Body> {
    let limit = parameters.get("limit").parse().ok().filter(|limit| *limit > 0);
    // The token: version of the first page, namespace, name.
    let token: Vec<&str> = parameters.get("continue").splitn(3, '/').collect();
    let (version, after): (Option<u64>, Option<Key>) = match token.as_slice() {
        [version, namespace, name] => {
            (version.parse().ok(), Some(((*namespace).to_owned(), (*name).to_owned())))
        }
        _ => (None, None),
    };
    let page = shared.store.list(scope, after, limit);
    // All pages have the version of the first one, so that a watch from it misses nothing.
    let version = version.unwrap_or(page.version);
    let next = page.last.map(|(namespace, name)| format!("{version}/{namespace}/{name}"));
    let metadata = json!({
        "resourceVersion": version.to_string(),
        "continue": next.unwrap_or_default(),
    });
    let size: usize = page.objects.iter().map(|o| o.json.len() + 1).sum();
    let mut body = String::with_capacity(size + 256);
    body.push_str(r#"{"kind":"List","apiVersion":"v1","metadata":"#);
    body.push_str(&metadata.to_string());
    body.push_str(r#","items":["#);
    for (n, object) in page.objects.iter().enumerate() {
        body.push_str(if n > 0 { "," } else { "" });
        body.push_str(&scope.print(object));
    }
    body.push_str("]}");
    text(200, body)
}

/// State of a watch.
struct Watch {
    shared: Arc<Shared>,
    scope: Scope,
    since: u64,
    deadline: Clock,
    next_bookmark: Option<Clock>,
    first: Option<String>,
    ended: bool,
    generation: u64,
    _counted: Counted,
}

fn watch_response(shared: &Arc<Shared>, scope: Scope, parameters: &Parameters) -> Response<Body> {
    let timeout =
        parameters.get("timeoutSeconds").parse().map_or(WATCH_TIMEOUT, Duration::from_secs);
    let bookmarks = parameters.get("allowWatchBookmarks") == "true";
    let mut watch = Watch {
        since: parameters.get("resourceVersion").parse().unwrap_or(0),
        deadline: Clock::now() + timeout,
        next_bookmark: bookmarks.then(|| Clock::now() + shared.bookmarks),
        first: None,
        ended: false,
        generation: shared.store.generation(),
        _counted: Counted::new(shared),
        shared: Arc::clone(shared),
        scope,
    };
    let initial = parameters.get("sendInitialEvents") == "true";
    if initial || watch.since == 0 {
        let page = shared.store.list(&watch.scope, None, None);
        watch.since = page.version;
        let mut lines = String::new();
        for object in &page.objects {
            line(&mut lines, "ADDED", &watch.scope.print(object));
        }
        if initial {
            lines.push_str(&bookmark(page.version, true));
        }
        watch.first = Some(lines);
    }
    let lines = stream::unfold(watch, |mut watch| async move {
        let lines = watch.next().await?;
        Some((Ok(Frame::data(Bytes::from(lines))), watch))
    });
    response(200, StreamBody::new(lines.boxed()).boxed_unsync())
}

impl Watch {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        if let Some(first) = self.first.take().filter(|lines| !lines.is_empty()) {
            return Some(first);
        }
        let mut version = self.shared.store.subscribe();
        let mut fault = self.shared.fault.subscribe();
        loop {
            let is_old = self.generation != self.shared.store.generation();
            if self.ended || is_old || matches!(*fault.borrow_and_update(), Fault::Status(_)) {
                return None;
            }
            version.borrow_and_update();
            match self.shared.store.events(&self.scope, self.since) {
                Ok((lines, reached)) => {
                    self.since = reached;
                    if !lines.is_empty() {
                        return Some(lines);
                    }
                }
                Err(_gone) => {
                    self.ended = true;
                    let status = status(410, "too old resource version").to_string();
                    let mut lines = String::new();
                    line(&mut lines, "ERROR", &status);
                    return Some(lines);
                }
            }
            let bookmark_at = self.next_bookmark.unwrap_or(self.deadline);
            tokio::select! {
                _ = version.changed() => {}
                _ = fault.changed() => {}
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = tokio::time::sleep_until(bookmark_at) => {
                    self.next_bookmark = Some(Clock::now() + self.shared.bookmarks);
                    if self.shared.store.has_reached(self.since) {
                        return Some(bookmark(self.since, false));
                    }
                }
            }
        }
    }
}

fn bookmark(version: u64, initial_events_end: bool) -> String {
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if initial_events_end {
        metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    }
    let object = json!({ "kind": "Bookmark", "apiVersion": "v1", "metadata": metadata });
    let mut lines = String::new();
    line(&mut lines, "BOOKMARK", &object.to_string());
    lines
}

fn status(code: u16, message: &str) -> serde_json::Value {
    let reason = StatusCode::from_u16(code).ok().and_then(|s| s.canonical_reason());
    let reason = if code == 410 { Some("Expired") } else { reason };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

fn failure(code: u16, message: &str) -> Response<Body> {
    text(code, status(code, message).to_string())
}

fn text(code: u16, body: String) -> Response<Body> {
    response(code, Full::new(Bytes::from(body)).boxed_unsync())
}

fn response(code: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
