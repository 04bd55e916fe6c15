//! An API server in memory, for tests and benchmarks.
//!
//! ```text
//! test --apply, delete--> Store --list pages, watch events--> HTTP/1.1 or HTTP/2, TLS on request
//! test --Fault----------> listener and connections
//! ```
//! It has lists with `limit` and `continue`, watches with bookmarks, timeouts and streaming lists
//! (`sendInitialEvents`), label and field selectors, and no validation, admission or RBAC. It runs on
//! a thread of its own, so that blocking tests can use it; it ends when [`ApiServer`] is dropped.
//!
//! ```no_run
//! let server = api_server::ApiServer::start();
//! server.apply(serde_json::json!({"kind": "Node", "metadata": {"name": "n1"}}));
//! server.set_fault(api_server::Fault::Down);
//! ```
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod connection;
mod http;
mod selector;
mod store;
mod tls;

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

pub use self::store::Backup;
use self::store::Store;
pub use self::tls::Authority;

/// A function that opens the listener, at start and after [`Fault::Down`]. It can enter a network
/// namespace.
pub type Bind = Box<dyn Fn() -> io::Result<TcpListener> + Send>;

/// What is wrong with the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The port is closed, and all connections are.
    Down,
    /// Connections are accepted; nothing is read or written, on existing ones too. They stay silent
    /// for ever, also when the fault ends.
    Silent,
    /// Each response is delayed.
    Slow(Duration),
    /// Each request is answered with this status code. Watches that run are closed.
    Status(u16),
}

/// A request that the server received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it was received.
    pub at: Instant,
    /// The path, for example `/api/v1/nodes`.
    pub path: String,
    /// The query.
    pub query: String,
    /// Value of the header `Authorization`.
    pub authorization: Option<String>,
    /// Value of the header `Accept`.
    pub accept: String,
    /// Whether it arrived over HTTP/2.
    pub http2: bool,
}

impl Request {
    /// Whether it starts a watch.
    pub fn is_watch(&self) -> bool {
        self.query.split('&').any(|p| matches!(p, "watch" | "watch=1" | "watch=true"))
    }
}

/// Everything that connections share.
struct Shared {
    store: Store,
    fault: watch::Sender<Fault>,
    /// Incremented by [`ApiServer::silence_connections`]: older connections are silent.
    silenced: watch::Sender<u64>,
    requests: Mutex<Vec<Request>>,
    token: Mutex<Option<String>>,
    tls: Mutex<Option<Authority>>,
    /// Resources that the server does not have.
    missing: Mutex<BTreeSet<String>>,
    bookmarks: Duration,
}

/// Options of a server.
pub struct Builder {
    bind: Bind,
    tls: Option<Authority>,
    bookmarks: Duration,
    history: usize,
}

impl Builder {
    /// Opens the listener with this function.
    pub fn bind(mut self, bind: impl Fn() -> io::Result<TcpListener> + Send + 'static) -> Builder {
        self.bind = Box::new(bind);
        self
    }

    /// Serves TLS with certificates of this authority.
    pub fn tls(mut self, authority: Authority) -> Builder {
        self.tls = Some(authority);
        self
    }

    /// Interval of bookmarks (default: 60 s).
    pub fn bookmarks(mut self, interval: Duration) -> Builder {
        self.bookmarks = interval;
        self
    }

    /// Number of changes from which a watch can start (default: 100,000); "410 Gone" for older ones.
    pub fn history(mut self, changes: usize) -> Builder {
        self.history = changes;
        self
    }

    /// Starts the server.
    ///
    /// # Panics
    /// The listener cannot be opened.
    pub fn start(self) -> ApiServer {
        let listener = (self.bind)().expect("open the listener");
        let address = listener.local_addr().expect("address of the listener");
        // Later listeners have the same port.
        let initial = Mutex::new(Some(listener));
        let ephemeral = Mutex::new(address);
        let bind = self.bind;
        let rebind: Bind = Box::new(move || {
            if let Some(first) = initial.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Ok(first);
            }
            let address = *ephemeral.lock().unwrap_or_else(PoisonError::into_inner);
            if address.ip().is_loopback() { TcpListener::bind(address) } else { bind() }
        });
        let shared = Arc::new(Shared {
            store: Store::new(self.history),
            fault: watch::Sender::new(Fault::None),
            silenced: watch::Sender::new(0),
            requests: Mutex::default(),
            token: Mutex::default(),
            tls: Mutex::new(self.tls),
            missing: Mutex::default(),
            bookmarks: self.bookmarks,
        });
        let (stop, stopped) = watch::channel(());
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(connection::serve(for_thread, rebind, stopped));
        });
        ApiServer { shared, address, stop: Some(stop), thread: Some(thread) }
    }
}

/// A running server.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<watch::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ApiServer {
    /// A server without TLS on a free loopback port.
    pub fn start() -> ApiServer {
        ApiServer::builder().start()
    }

    /// Options of a server; by default those of [`ApiServer::start`].
    pub fn builder() -> Builder {
        Builder {
            bind: Box::new(|| TcpListener::bind("127.0.0.1:0")),
            tls: None,
            bookmarks: Duration::from_secs(60),
            history: 100_000,
        }
    }

    /// Address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL of the server.
    pub fn url(&self) -> String {
        let tls = self.shared.tls.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        format!("{}://{}", if tls { "https" } else { "http" }, self.address)
    }

    /// Creates or replaces an object; returns its resource version.
    ///
    /// # Panics
    /// The object has no kind or no name.
    pub fn apply(&self, object: Value) -> u64 {
        self.shared.store.apply(object)
    }

    /// An object. `namespace` is empty for a cluster-wide one.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (namespace.to_owned(), name.to_owned());
        let object = self.shared.store.get(&store::resource(kind), &key)?;
        serde_json::from_str(&object.json).ok()
    }

    /// Deletes an object. `namespace` is empty for a cluster-wide one. `false`: it does not exist.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> bool {
        self.shared.store.delete(kind, namespace, name)
    }

    /// Forgets all earlier changes: a watch from an older resource version gets "410 Gone", a
    /// running watch too.
    pub fn compact(&self) {
        self.shared.store.compact();
    }

    /// The objects and the version, for [`ApiServer::restore`].
    pub fn backup(&self) -> Backup {
        self.shared.store.backup()
    }

    /// Returns to the state of a backup, as servers do whose etcd was restored. Running watches end. One that
    /// resumes at a later version gets neither events nor bookmarks until that version is reached.
    pub fn restore(&self, backup: &Backup) {
        self.shared.store.restore(backup);
    }

    /// Ends all watches that run, as at their timeout.
    pub fn end_watches(&self) {
        self.shared.store.end_watches();
    }

    /// Starts or ends a fault.
    pub fn set_fault(&self, fault: Fault) {
        self.shared.fault.send_replace(fault);
    }

    /// Existing connections are never read or written again and stay open: the peer's kernel
    /// acknowledges segments and keepalive probes. New connections work.
    pub fn silence_connections(&self) {
        self.shared.silenced.send_modify(|n| *n += 1);
    }

    /// From now on, requests need this bearer token; others get "401 Unauthorized".
    pub fn require_token(&self, token: &str) {
        *self.shared.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.to_owned());
    }

    /// New connections get a certificate of this authority.
    pub fn set_authority(&self, authority: Authority) {
        *self.shared.tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(authority);
    }

    /// Whether the server has a resource (plural, in lower case): "404 Not Found" without it.
    pub fn set_served(&self, resource: &str, served: bool) {
        let mut missing = self.shared.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if served {
            missing.remove(resource);
        } else {
            missing.insert(resource.to_owned());
        }
    }

    /// Requests so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Number of watches that run.
    pub fn watches(&self) -> usize {
        self.shared.store.watches()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
