//! Watches that are ahead of their API server, because etcd was restored from a backup.
//!
//! ```text
//! watch ended without data --> resumes at N: list of one object has version R --> R < N: "410 Gone"
//! ```
//! A watch resumes at the version of the last data. A server that has not reached that version again sends
//! neither events nor bookmarks until it has, which may take weeks. Servers send a bookmark each minute, so
//! a watch without data for longer is the only sign. Then, and only then, the version of the server is
//! requested. A consistent list has at least every version that any client has ever seen, unless etcd went
//! back, so the comparison is exact. `kube` lists again after "410 Gone".

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Frame};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::http::uri::{InvalidUri, PathAndQuery};
use hyper::http::{self, Uri};
use hyper::{Request, Response};
use kube::client::Body;
use serde::Deserialize;
use tower::BoxError;

/// A watch without data for this time is silent. It lasts 200 s at least.
pub const SILENT_AFTER: Duration = Duration::from_secs(150);

/// Whether the last watch of a kind was silent.
#[derive(Clone, Debug)]
pub struct Silence {
    is_set: Arc<AtomicBool>,
    after: Duration,
}

impl Silence {
    /// Of a kind that was not watched yet.
    pub fn new(after: Duration) -> Silence {
        Silence { is_set: Arc::default(), after }
    }

    /// A watch ended after this time, or its version could not be compared.
    pub fn ended(&self, lasted: Duration, has_data: bool) {
        self.is_set.store(!has_data && lasted >= self.after, Ordering::Relaxed);
    }

    /// Whether the last watch was silent.
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    /// The version was compared.
    pub fn clear(&self) {
        self.is_set.store(false, Ordering::Relaxed);
    }
}

/// The version at which a request resumes a watch.
pub fn resumed_at(uri: &Uri) -> Option<u64> {
    let parameters = uri.query()?.split('&');
    let version = parameters.filter_map(|p| p.strip_prefix("resourceVersion=")).next()?;
    version.parse().ok().filter(|version| *version > 0)
}

/// The request for a consistent list of at most one of the objects that a request watches.
///
/// # Errors
/// The request is not valid.
pub fn version_request(watch: &Uri) -> Result<Request<Body>, http::Error> {
    let is_selector = |p: &&str| p.starts_with("labelSelector=") || p.starts_with("fieldSelector=");
    let selectors = watch.query().unwrap_or_default().split('&').filter(is_selector);
    let query: Vec<&str> = selectors.chain(["limit=1"]).collect();
    let path: Result<PathAndQuery, InvalidUri> =
        format!("{}?{}", watch.path(), query.join("&")).parse();
    Request::get(Uri::from(path?)).header(ACCEPT, "application/json").body(Body::empty())
}

/// The version of a list.
pub fn version(list: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct List {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        resource_version: String,
    }
    serde_json::from_slice::<List>(list).ok()?.metadata.resource_version.parse().ok()
}

/// What a server responds that does not have the changes after the version of a watch.
pub fn expired() -> Response<UnsyncBoxBody<Bytes, BoxError>> {
    const EVENT: &str = concat!(
        r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"#,
        r#""status":"Failure","reason":"Expired","code":410,"#,
        r#""message":"the API server has an older version than this watch"}}"#,
        "\n"
    );
    let body = Full::new(Bytes::from_static(EVENT.as_bytes()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Whether a frame brings data. HTTP/2 servers in Go end a response with an empty one.
pub fn has_bytes(frame: &Frame<Bytes>) -> bool {
    frame.data_ref().is_some_and(|data| !data.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_frame_at_the_end_of_a_response_is_no_data() {
        assert!(has_bytes(&Frame::data(Bytes::from_static(b"{"))));
        assert!(!has_bytes(&Frame::data(Bytes::new())));
        assert!(!has_bytes(&Frame::trailers(http::HeaderMap::new())));
    }

    #[test]
    fn watches_resume_at_a_version() {
        for (query, expected) in [
            ("watch=true&resourceVersion=1200&timeoutSeconds=290", Some(1200)),
            ("watch=true&resourceVersion=0", None),
            ("watch=true&resourceVersionMatch=1", None),
            ("watch=true&resourceVersion=abc", None),
        ] {
            let uri = format!("/api/v1/pods?{query}").parse().unwrap();
            assert_eq!(resumed_at(&uri), expected, "{query}");
        }
    }

    #[test]
    fn version_is_requested_of_the_objects_that_are_watched() {
        let watch = "/api/v1/pods?&watch=true&fieldSelector=status.phase%21%3DFailed\
                     &allowWatchBookmarks=true&resourceVersion=7&labelSelector=a";
        let request = version_request(&watch.parse().unwrap()).unwrap();
        let expected =
            "/api/v1/pods?fieldSelector=status.phase%21%3DFailed&labelSelector=a&limit=1";
        assert_eq!(request.uri().to_string(), expected);
    }

    #[test]
    fn version_of_a_list_is_a_number() {
        let list = |version: &str| {
            let text =
                format!(r#"{{"metadata":{{"resourceVersion":"{version}"}},"items":[{{}}]}}"#);
            self::version(text.as_bytes())
        };
        assert_eq!((list("1000"), list("x"), version(b"{}")), (Some(1000), None, None));
    }

    #[test]
    fn watch_is_silent_after_a_time_without_data() {
        let silence = Silence::new(SILENT_AFTER);
        for (lasted, has_data, expected) in [
            (SILENT_AFTER, false, true),
            (SILENT_AFTER, true, false),
            (SILENT_AFTER - Duration::from_millis(1), false, false),
        ] {
            silence.ended(lasted, has_data);
            assert_eq!(silence.is_set(), expected, "{lasted:?} {has_data}");
        }
    }
}
