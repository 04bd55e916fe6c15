//! Connections to the API server.
//!
//! With TLS, all watches share one HTTP/2 connection. A connection whose peer does not respond any
//! more is closed within [`DEAD_AFTER`]:
//!
//! - HTTP/2 pings detect it whatever forwards the connection. A proxy or load balancer that lost its
//!   backend still acknowledges TCP segments.
//! - TCP keepalive and `TCP_USER_TIMEOUT` detect a lost peer under HTTP/1.1, which servers and
//!   proxies without ALPN speak.

use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Bytes;
use hyper::{Request, Response};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use tower::timeout::Timeout;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt, service_fn};

use super::api_server::ApiServerError;

/// Time after which a silent connection is closed, at the latest.
#[cfg(test)]
pub const DEAD_AFTER: Duration = Duration::from_secs(15);

/// Deadline of a TCP connection: one retransmission of the SYN, after 1 s. A longer one would delay
/// the attempt that follows the API server's return.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Deadline of a connection with its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of HTTP/2 pings, and the time that the response may take.
const PING: Duration = Duration::from_secs(5);
/// Idle time before the first keepalive probe, and the interval of probes.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(3));
/// A connection with unacknowledged data or probes of this age is closed: 13 s with the probes
/// above.
const USER_TIMEOUT: Duration = Duration::from_secs(12);

/// A request in, the response with a boxed body out.
pub type Transport =
    BoxCloneSyncService<Request<Body>, Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError>;

/// A client of the server in `config`.
///
/// # Errors
/// The certificates or headers of `config` are not valid, or it has a proxy.
pub fn new(config: &kube::Config) -> Result<Transport, ApiServerError> {
    build(config).map_err(|source| ApiServerError::Client(Box::new(source)))
}

fn build(config: &kube::Config) -> Result<Transport, kube::Error> {
    if let Some(proxy_url) = config.proxy_url.clone() {
        return Err(kube::Error::ProxyProtocolUnsupported { proxy_url });
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE.0));
    tcp.set_keepalive_interval(Some(KEEPALIVE.1));
    tcp.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let mut tls = HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_or_http();
    if let Some(name) = config.tls_server_name.clone() {
        let name = name.try_into().map_err(kube::client::RustlsTlsError::InvalidServerName);
        let name = name.map_err(kube::Error::RustlsTls)?;
        tls = tls.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let tls = tls.enable_all_versions().wrap_connector(tcp);
    let connector = BoxCloneSyncService::new(Timeout::new(tls, HANDSHAKE_TIMEOUT));
    let client: legacy::Client<_, Body> = legacy::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .http2_keep_alive_while_idle(true)
        .build(connector);
    let service = service_fn(move |request| {
        let response = client.request(request);
        async move {
            let response = response.await.map_err(BoxError::from)?;
            Ok::<_, BoxError>(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
        }
    });
    let service = config.extra_headers_layer()?.layer(service);
    let service = ServiceBuilder::new().option_layer(config.auth_layer()?).service(service);
    let service = config.base_uri_layer().layer(service.map_err(BoxError::from));
    Ok(BoxCloneSyncService::new(service.map_err(BoxError::from)))
}
