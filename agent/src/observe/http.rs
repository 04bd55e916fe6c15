//! HTTP/1.1 for probes and scrapes: one small response per connection, chosen by the path alone.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Number of local endpoints, in responses of healthCheckNodePorts.
const ENDPOINT_WEIGHT: &str = "x-load-balancing-endpoint-weight";

/// Pause before a bind is retried.
const BIND_PAUSE: Duration = Duration::from_secs(5);
/// Pause after a failed accept, which usually means that no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// Content type.
    pub kind: &'static str,
    /// Body.
    pub body: String,
    /// Value of `X-Load-Balancing-Endpoint-Weight`, which load balancers read.
    pub weight: Option<usize>,
}

impl Answer {
    /// A response without a weight.
    pub fn new(code: u16, kind: &'static str, body: String) -> Answer {
        Answer { code, kind, body, weight: None }
    }
}

/// Limits of a server. The health port is open to the network of the node.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Open connections; further ones wait in the backlog.
    connections: usize,
    /// Time until the header of the request is complete.
    header: Duration,
    /// Time until the response is written.
    connection: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 128,
            header: Duration::from_secs(5),
            connection: Duration::from_secs(10),
        }
    }
}

/// Serves `answer(path)` at `address`; `None` is "404 Not Found". A bind that fails is retried:
/// during an upgrade the previous agent may hold the port.
pub async fn serve(
    address: SocketAddr,
    answer: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static,
) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(e) => {
                tracing::warn!(%address, error = %e, "HTTP server: bind failed, retrying");
                tokio::time::sleep(BIND_PAUSE).await;
            }
        }
    };
    serve_at(listener, answer).await;
}

/// Serves `answer(path)` at a listener, until it is dropped.
pub async fn serve_at(
    listener: TcpListener,
    answer: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static,
) {
    accept(listener, Limits::default(), answer).await;
}

async fn accept(
    listener: TcpListener,
    limits: Limits,
    answer: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static,
) {
    let answer = Arc::new(answer);
    let permits = Arc::new(Semaphore::new(limits.connections));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    handle(stream, limits, &*answer).await;
                    drop(permit);
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "HTTP server: accept failed, retrying");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection. Its errors concern the client only.
async fn handle(
    stream: TcpStream,
    limits: Limits,
    answer: &(impl Fn(&str) -> Option<Answer> + Send + Sync),
) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = response(answer(request.uri().path()));
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(limits.connection, connection).await;
}

fn response(answer: Option<Answer>) -> Response<Full<Bytes>> {
    let not_found = || Answer::new(404, "text/plain", "no such path\n".to_owned());
    let Answer { code, kind, body, weight } = answer.unwrap_or_else(not_found);
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    if let Some(weight) = weight {
        headers.insert(ENDPOINT_WEIGHT, header::HeaderValue::from(weight));
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    /// A server on a free loopback port.
    async fn server(limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, limits, |path| {
            (path == "/healthz").then(|| Answer::new(503, "application/json", "{}".to_owned()))
        }));
        address
    }

    /// All bytes until the server closes the connection.
    async fn read_all(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        tokio::time::timeout(WAIT, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        text
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    }

    #[tokio::test]
    async fn response_has_code_type_and_body_and_unknown_path_is_not_found() {
        let address = server(Limits::default()).await;
        let text = get(address, "/healthz").await;
        assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
        assert!(text.contains("content-type: application/json\r\n"), "{text}");
        assert!(text.contains("connection: close\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n{}"), "{text}");
        assert!(get(address, "/other").await.starts_with("HTTP/1.1 404 "));
    }

    #[tokio::test]
    async fn client_that_sends_no_request_is_disconnected() {
        let header = Duration::from_millis(50);
        let address = server(Limits { header, connection: 6 * WAIT, ..Limits::default() }).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(read_all(&mut silent).await, "");
    }

    #[tokio::test]
    async fn connection_is_closed_at_its_deadline() {
        let connection = Duration::from_millis(50);
        let address = server(Limits { connection, header: 6 * WAIT, ..Limits::default() }).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(read_all(&mut silent).await, "");
    }

    #[tokio::test]
    async fn connection_over_the_limit_is_served_after_another_one_closes() {
        let address = server(Limits { connections: 1, ..Limits::default() }).await;
        let open = TcpStream::connect(address).await.unwrap();
        let mut waiting = tokio::spawn(async move { get(address, "/healthz").await });
        let early = tokio::time::timeout(Duration::from_millis(100), &mut waiting).await;
        assert!(early.is_err(), "served although the limit is reached");
        drop(open);
        assert!(
            tokio::time::timeout(WAIT, waiting).await.unwrap().unwrap().starts_with("HTTP/1.1")
        );
    }
}
