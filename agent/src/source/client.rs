//! The client of each watch. All share one connection, which is built afresh when the files of
//! address and credentials change.
//!
//! ```text
//! watch --kube::Client--> Connection --current transport--> API server
//!                             ^ reload: every 5 s, and after each failure
//! ```
//! A new transport serves the next request of each watch. If address, CA or client certificate
//! changed, running watches end and resume over it at their resource version; a rotated token
//! leaves them alone.

use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Request, Response, StatusCode, Uri};
use kube::client::{Body, ClientBuilder};
use sluice_bpf::error_chain;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tower::{BoxError, Service, ServiceExt};

use super::api_server::{Access, ApiServerError, Fallback};
use super::restored::{self, Silence};
use super::retry::Retries;
use super::transport::{self, Transport};
use crate::config::ApiAccess;
use crate::watches::WatchState;

/// Time between two comparisons of the files. They are bind mounts and symbolic links, for which
/// inotify misses changes.
const RELOAD: Duration = Duration::from_secs(5);
/// Deadline until the header of a response.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest pause within a list.
const LIST_IDLE: Duration = Duration::from_secs(30);
/// Longest pause of a watch: the API server ends each before (`timeoutSeconds` below 295).
const WATCH_IDLE: Duration = Duration::from_secs(330);

/// Shortest time between the starts of a watch that the server ends.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// The connection that all watches share; clones are the same connection.
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

struct Shared {
    access: ApiAccess,
    current: RwLock<Transport>,
    loaded: Mutex<Loaded>,
    /// Hash of address and certificates.
    peer: watch::Sender<u64>,
    retries: Retries,
    silent_after: Duration,
}

/// What the current transport was built from.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Loaded {
    peer: u64,
    all: u64,
    fallback: bool,
}

impl From<&Access> for Loaded {
    fn from(access: &Access) -> Loaded {
        Loaded { peer: access.peer, all: access.all, fallback: access.fallback.is_some() }
    }
}

/// Requests of one watch.
#[derive(Clone)]
struct Requests {
    connection: Connection,
    state: WatchState,
    silence: Silence,
}

impl Connection {
    /// A connection with the present address and credentials.
    ///
    /// # Errors
    /// They are missing or not valid.
    pub async fn open(
        access: ApiAccess,
        retries: Retries,
        silent_after: Duration,
    ) -> Result<Connection, ApiServerError> {
        let loaded = Access::load(&access).await?;
        let current = RwLock::new(transport::new(&loaded.config)?);
        let file = access.kubelet_conf.display();
        match &loaded.fallback {
            None => {}
            Some(Fallback::NoFile) => {
                tracing::info!(%file, "kubelet configuration does not exist, using the ClusterIP of the API server, which requires another proxy; --api-server gives an address");
            }
            Some(Fallback::Invalid(error)) => {
                tracing::warn!(%file, %error, "kubelet configuration is not valid, using the ClusterIP of the API server, which requires another proxy");
            }
        }
        tracing::info!(server = %loaded.config.cluster_url, from = loaded.origin, "API server: using this address");
        let connection = Connection(Arc::new(Shared {
            access,
            current,
            loaded: Mutex::new(Loaded::from(&loaded)),
            peer: watch::Sender::new(loaded.peer),
            retries,
            silent_after,
        }));
        tokio::spawn(connection.clone().follow_files());
        Ok(connection)
    }

    /// A client whose requests are those of one watch.
    pub fn client(&self, state: WatchState) -> kube::Client {
        let silence = Silence::new(self.0.silent_after);
        let requests = Requests { connection: self.clone(), state, silence };
        ClientBuilder::new(requests, "default").build()
    }

    async fn follow_files(self) {
        loop {
            tokio::time::sleep(RELOAD).await;
            self.reload(false).await;
        }
    }

    /// Compares the files with those in use; builds a new transport if they differ, or if `force`.
    pub async fn reload(&self, force: bool) {
        let shared = &self.0;
        let mut loaded = shared.loaded.lock().await;
        let access = match Access::load(&shared.access).await {
            Ok(access) => access,
            Err(error) => {
                tracing::debug!(error = %error_chain(&error), "API server: files are not valid, keeping the former ones");
                return;
            }
        };
        let found = Loaded::from(&access);
        if found.fallback && !loaded.fallback {
            tracing::debug!(
                "API server: kubelet configuration has no address, keeping the former one"
            );
            return;
        }
        let changed = found != *loaded;
        if !changed && !force {
            return;
        }
        match transport::new(&access.config) {
            Ok(transport) => {
                *shared.current.write().unwrap_or_else(PoisonError::into_inner) = transport;
            }
            Err(error) => {
                tracing::warn!(error = %error_chain(&error), "API server: credentials are not valid, keeping the former ones");
                *loaded = found;
                return;
            }
        }
        if changed {
            tracing::info!(
                server = %access.config.cluster_url, from = access.origin,
                reconnecting = found.peer != loaded.peer,
                "API server: address or credentials changed"
            );
            *loaded = found;
            shared
                .peer
                .send_if_modified(|peer| std::mem::replace(peer, access.peer) != access.peer);
            shared.retries.wake_all();
        }
    }

    async fn send(
        &self,
        request: Request<Body>,
        state: &WatchState,
        silence: Silence,
    ) -> Result<Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError> {
        let watch = is_watch(&request);
        if watch && silence.is_set() && self.is_ahead(request.uri(), state, &silence).await {
            return Ok(restored::expired());
        }
        let peer = self.0.peer.subscribe();
        let response = match timeout(HEADER_TIMEOUT, self.transport().oneshot(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                self.reload(false).await;
                return Err(error);
            }
            Err(elapsed) => return Err(elapsed.into()),
        };
        match response.status() {
            // The token is read again: kube keeps it for a minute.
            StatusCode::UNAUTHORIZED => self.reload(true).await,
            status if status.is_success() => {
                if state.works() {
                    tracing::info!(kind = state.kind(), "watch resumed");
                }
                state.received();
                self.0.retries.wake_all();
            }
            _ => {}
        }
        let silence = (watch && response.status().is_success()).then_some(silence);
        Ok(response.map(|body| observed(body, watch, silence, state.clone(), peer)))
    }

    fn transport(&self) -> Transport {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the watch that a request resumes knows a later version than the server has.
    async fn is_ahead(&self, watch: &Uri, state: &WatchState, silence: &Silence) -> bool {
        let Some(known) = restored::resumed_at(watch) else { return false };
        // Without a response, the versions are compared when the watch resumes the next time.
        let Ok(Ok(server)) = timeout(HEADER_TIMEOUT, self.version(watch)).await else {
            return false;
        };
        silence.clear();
        let is_ahead = server.is_some_and(|server| server < known);
        if is_ahead {
            let (kind, server) = (state.kind(), server.unwrap_or_default());
            tracing::warn!(
                kind,
                known,
                server,
                "the API server has an older state than this watch, as after a restore of etcd; listing again"
            );
        }
        is_ahead
    }

    /// The present version of the server, of the objects that a request watches.
    async fn version(&self, watch: &Uri) -> Result<Option<u64>, BoxError> {
        let response = self.transport().oneshot(restored::version_request(watch)?).await?;
        if !response.status().is_success() {
            return Err(response.status().to_string().into());
        }
        Ok(restored::version(&response.into_body().collect().await?.to_bytes()))
    }
}

fn is_watch(request: &Request<Body>) -> bool {
    let requests_watch = |parameter: &str| matches!(parameter, "watch" | "watch=1" | "watch=true");
    request.uri().query().is_some_and(|query| query.split('&').any(requests_watch))
}

/// The body of a response. Records that data arrives, or that a watch was silent; ends when the peer is obsolete
/// or does not respond.
fn observed(
    body: UnsyncBoxBody<Bytes, BoxError>,
    watch: bool,
    silence: Option<Silence>,
    state: WatchState,
    peer: watch::Receiver<u64>,
) -> UnsyncBoxBody<Bytes, BoxError> {
    let started = Instant::now();
    let idle = if watch { WATCH_IDLE } else { LIST_IDLE };
    let frames = stream::unfold(
        (body, state, peer, silence, false, false),
        move |(mut body, state, mut peer, silence, has_data, ended)| async move {
            if ended {
                return None;
            }
            let frame: Option<Result<Frame<Bytes>, BoxError>> = {
                let next = pin!(timeout(idle, body.frame()));
                tokio::select! {
                    frame = next => match frame {
                        Ok(frame) => frame,
                        Err(elapsed) => Some(Err(elapsed.into())),
                    },
                    // A watch ends and resumes; half a list is an error.
                    Ok(()) = peer.changed() => (!watch).then(|| Err("address or credentials changed".into())),
                }
            };
            let is_end = frame.as_ref().is_none_or(Result::is_err);
            if is_end && let Some(silence) = &silence {
                silence.ended(started.elapsed(), has_data);
            }
            if watch && frame.is_none() && !peer.has_changed().unwrap_or(true) {
                // kube asks again at once.
                sleep_until(started + SHORTEST_WATCH).await;
            }
            let frame = frame?;
            if frame.is_ok() {
                state.received();
            }
            let has_data = has_data || frame.as_ref().is_ok_and(restored::has_bytes);
            Some((frame, (body, state, peer, silence, has_data, is_end)))
        },
    );
    StreamBody::new(frames).boxed_unsync()
}

impl Service<Request<Body>> for Requests {
    type Response = Response<UnsyncBoxBody<Bytes, BoxError>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Requests { connection, state, silence } = self.clone();
        Box::pin(async move { connection.send(request, &state, silence).await })
    }
}
