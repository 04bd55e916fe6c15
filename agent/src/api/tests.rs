//! Client and server over a real socket.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use sluice_abi::proto;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::fake::{Fake, ROWS};
use super::request::MAX_REQUEST;
use super::server::{Limits, serve_with};
use super::*;

/// Deadline of everything that should succeed.
const WAIT: Duration = Duration::from_secs(30);
/// Deadline that expires during a test.
const SHORT: Duration = Duration::from_millis(50);

/// A server whose state is `fake`.
struct Server {
    _dir: TempDir,
    path: PathBuf,
}

impl Server {
    fn start(limits: Limits, fake: Fake) -> Server {
        let (server, mut calls) = Server::without_owner(limits);
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                call.respond(&fake);
            }
        });
        server
    }

    /// A server whose calls the test answers.
    fn without_owner(limits: Limits) -> (Server, mpsc::Receiver<Call>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.sock");
        let (events, calls) = mpsc::channel(1);
        serve_with(limits, &path, events, |call| call).unwrap();
        (Server { _dir: dir, path }, calls)
    }

    async fn call<R>(&self, request: Request) -> Result<Vec<R>, ClientError>
    where
        R: DeserializeOwned + Send + 'static,
    {
        let path = self.path.clone();
        spawn_blocking(move || call(&path, &request, WAIT)?.collect()).await.unwrap()
    }

    /// Sends `bytes` and returns the lines of the response.
    async fn raw(&self, bytes: &[u8]) -> Vec<Value> {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        // A server that rejects the request closes the connection before it has read everything;
        // the client then receives the response, followed by ECONNRESET.
        let _ = stream.write_all(bytes).await;
        let mut text = Vec::new();
        let _ = timeout(WAIT, stream.read_to_end(&mut text)).await.unwrap();
        let text = String::from_utf8(text).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Limits for the user that runs the tests.
fn limits() -> Limits {
    Limits { uid: nix::unistd::geteuid().as_raw(), ..Limits::default() }
}

fn services(filter: ServiceFilter) -> Request {
    Request::Services(filter)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_is_one_row() {
    let server = Server::start(limits(), Fake::default());
    let rows = server.call::<Status>(Request::Status {}).await.unwrap();
    assert_eq!(rows, [Fake::default().status()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_have_name_address_action_and_backends() {
    let mut fake = Fake::with_services("shop", 1);
    fake.add("shop", 1, proto::UDP, 0);
    fake.add_local("shop", 2, proto::SCTP);
    fake.add_wildcard("shop", 3);
    let server = Server::start(limits(), fake);
    let rows = server.call::<Value>(services(ServiceFilter::default())).await.unwrap();
    assert_eq!(
        Value::from(rows),
        serde_json::json!([
            {
                "service": "shop/s-0", "portName": "http", "type": "ClusterIP", "policy": "Cluster", "address": "10.0.0.0", "port": 80,
                "protocol": "TCP", "action": "forward", "backends": ["192.0.0.0:8080"],
            },
            {
                "service": "shop/s-1", "portName": "http", "type": "ClusterIP", "policy": "Cluster", "address": "10.0.0.1", "port": 80,
                "protocol": "UDP", "action": "reject", "backends": [],
            },
            {
                "service": "shop/s-2", "portName": "http", "type": "ClusterIP", "policy": "Local", "address": "10.0.0.2", "port": 80,
                "protocol": "SCTP", "action": "drop", "backends": [],
            },
        ])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn response_of_ten_thousand_rows_is_complete_and_ordered() {
    const COUNT: u32 = 10_000;
    let server = Server::start(limits(), Fake::with_services("shop", COUNT));
    let rows = server.call::<ServiceRow>(services(ServiceFilter::default())).await.unwrap();
    let names: Vec<String> = rows.into_iter().map(|r| r.service).collect();
    let expected: Vec<String> = (0..COUNT).map(|n| format!("shop/s-{n}")).collect();
    assert!(names == expected, "{} rows", names.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filter_is_evaluated_in_the_server() {
    let mut fake = Fake::with_services("shop", 2000);
    fake.add("other", 1999, proto::TCP, 1);
    let server = Server::start(limits(), fake);
    let request = services(ServiceFilter { namespace: Some("other".into()), ..Default::default() });
    let lines = server.raw(request.to_line().as_bytes()).await;
    let rows: Vec<&Value> = lines.iter().filter_map(|l| l.get("row")).collect();
    assert_eq!(rows.len(), 1, "{lines:?}");
    assert_eq!(rows[0]["service"], "other/s-1999");
    assert_eq!(lines.last().unwrap(), &serde_json::json!({ "end": { "count": 1 } }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn response_of_drops_ends_with_the_first_number_and_the_lost_events() {
    let lost_events = [("rate_limit".to_owned(), 7)].into();
    let drops_end = DropsEnd { first_sequence: Some(5), lost_events };
    let server = Server::start(limits(), Fake { drops_end: drops_end.clone(), ..Fake::default() });
    let lines = server.raw(Request::Drops { from: 0 }.to_line().as_bytes()).await;
    let end = serde_json::json!({
        "end": { "count": 0, "firstSequence": 5, "lostEvents": { "rate_limit": 7 } }
    });
    assert_eq!(lines.last(), Some(&end));
    let path = server.path.clone();
    let drops = move || call::<DropRow>(&path, &Request::Drops { from: 0 }, WAIT)?.with_end();
    let (rows, received) = spawn_blocking(drops).await.unwrap().unwrap();
    assert_eq!((rows, received), (Vec::new(), drops_end));
}

#[tokio::test]
async fn response_starts_with_the_version_and_ends_with_the_count() {
    let server = Server::start(limits(), Fake::with_services("shop", 3));
    // A request without newline ends with the client's end of file.
    let lines = server.raw(Request::Status {}.to_line().as_bytes()).await;
    assert_eq!(lines[0], serde_json::json!({ "version": 1, "agent": env!("CARGO_PKG_VERSION") }));
    assert_eq!(lines[1]["row"]["node"], "worker");
    assert_eq!(lines[2], serde_json::json!({ "end": { "count": 1 } }));
    assert_eq!(lines.len(), 3);
}

#[tokio::test]
async fn rejected_request_gets_the_header_and_an_error() {
    let server = Server::start(limits(), Fake::default());
    let long = vec![b'x'; MAX_REQUEST + 1];
    let huge = vec![b'x'; 1 << 20];
    for (request, code) in [
        (&b"hello\n"[..], "malformed"),
        (b"\n", "malformed"),
        (b"{\"version\":2,\"request\":{\"status\":{}}}\n", "version"),
        (b"{\"version\":1,\"request\":{\"flows\":{}}}\n", "unsupported"),
        (&long, "tooLong"),
        (&huge, "tooLong"),
    ] {
        // Without the newline the server has to stop at the limit.
        let lines = server.raw(request).await;
        assert_eq!(lines.len(), 2, "{code}: {lines:?}");
        assert_eq!(lines[0]["version"], 1);
        assert_eq!(lines[1]["error"]["code"], code, "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_reports_an_error_of_the_agent() {
    let server = Server::start(Limits { uid: 4_000_000, ..limits() }, Fake::default());
    match server.call::<Status>(Request::Status {}).await {
        Err(ClientError::Agent { code, message }) => {
            assert_eq!(code, "forbidden");
            assert!(message.contains("run the command as root"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn socket_is_accessible_to_its_owner_only_and_replaces_a_stale_one() {
    let server = Server::start(limits(), Fake::default());
    let mode = std::fs::metadata(&server.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (events, _calls) = mpsc::channel(1);
    serve_with(limits(), &server.path, events, |call: Call| call).unwrap();
    assert_eq!(Limits::default().uid, 0);
}

#[tokio::test]
async fn client_that_sends_no_request_is_disconnected() {
    let server = Server::start(Limits { request: SHORT, ..limits() }, Fake::default());
    let mut silent = UnixStream::connect(&server.path).await.unwrap();
    let mut text = String::new();
    timeout(WAIT, silent.read_to_string(&mut text)).await.unwrap().unwrap();
    assert!(text.contains("\"code\":\"timeout\""), "{text}");
}

#[tokio::test]
async fn client_that_stops_reading_is_disconnected_and_others_are_served() {
    let limits = Limits { write: SHORT, connections: 1, ..limits() };
    let server = Server::start(limits, Fake::with_services("shop", 20_000));
    let slow = UnixStream::connect(&server.path).await.unwrap();
    let (reader, mut writer) = slow.into_split();
    let request = services(ServiceFilter::default()).to_line();
    writer.write_all(request.as_bytes()).await.unwrap();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    reader.read_line(&mut line).await.unwrap();
    // The only connection is taken until the server closes it.
    let lines = server.raw(Request::Status {}.to_line().as_bytes()).await;
    assert_eq!(lines.len(), 3, "{lines:?}");
    let mut rest = String::new();
    timeout(WAIT, reader.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert!(!rest.contains("\"end\""), "the response was not cut");
}

#[tokio::test]
async fn connection_over_the_limit_is_served_after_another_one_closes() {
    let server = Server::start(Limits { connections: 1, ..limits() }, Fake::default());
    let open = UnixStream::connect(&server.path).await.unwrap();
    let request = Request::Status {}.to_line();
    let mut waiting = Box::pin(server.raw(request.as_bytes()));
    let early = timeout(SHORT, &mut waiting).await;
    assert!(early.is_err(), "served although the limit is reached");
    drop(open);
    assert_eq!(waiting.await.len(), 3);
}

#[tokio::test]
async fn busy_or_stopped_owner_ends_the_response() {
    let request = Request::Status {}.to_line();
    let (server, calls) = Server::without_owner(Limits { answer: SHORT, ..limits() });
    let lines = server.raw(request.as_bytes()).await;
    assert_eq!(lines[1]["error"]["code"], "busy", "{lines:?}");
    drop(calls);
    let lines = server.raw(request.as_bytes()).await;
    assert_eq!(lines[1]["error"]["code"], "stopping", "{lines:?}");
}

#[tokio::test]
async fn next_page_is_asked_for_after_the_previous_one_is_read() {
    let (server, mut calls) = Server::without_owner(limits());
    let fake = Fake::with_services("shop", 20_000);
    let mut stream = UnixStream::connect(&server.path).await.unwrap();
    let request = services(ServiceFilter::default()).to_line();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut pages = 0;
    while let Ok(Some(call)) = timeout(Duration::from_millis(500), calls.recv()).await {
        call.respond(&fake);
        pages += 1;
    }
    let all = 20_000 / ROWS;
    assert!((1..all).contains(&pages), "{pages} of {all} pages without a reader");
}
