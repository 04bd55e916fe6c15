//! The server answers as the API server does.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use api_server::{ApiServer, Fault};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(10);

fn service(name: &str, labels: Value) -> Value {
    json!({"kind": "Service", "apiVersion": "v1",
           "metadata": {"namespace": "shop", "name": name, "labels": labels}})
}

fn open(server: &ApiServer, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    stream
}

fn get(server: &ApiServer, path: &str) -> (u16, Value) {
    let mut text = String::new();
    open(server, path).read_to_string(&mut text).unwrap();
    let code = text.split(' ').nth(1).unwrap().parse().unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    (code, serde_json::from_str(body).unwrap_or_default())
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect()
}

/// The events of a watch, without the head of the response.
fn events(stream: TcpStream) -> impl Iterator<Item = Value> {
    BufReader::new(stream)
        .lines()
        .map(|line| line.unwrap())
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(&line).unwrap())
}

#[test]
fn list_has_pages_and_selectors() {
    let server = ApiServer::start();
    for name in ["a", "b", "c"] {
        server.apply(service(name, json!({})));
    }
    server.apply(service("headless", json!({"service.kubernetes.io/headless": ""})));
    let path = "/api/v1/services?labelSelector=%21service.kubernetes.io%2Fheadless&limit=2";
    let (code, first) = get(&server, path);
    assert_eq!((code, names(&first)), (200, vec!["a", "b"]));
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = get(&server, &format!("{path}&continue={token}"));
    assert_eq!(names(&second), ["c"]);
    assert_eq!(second["metadata"]["continue"], "");
    assert_eq!(get(&server, "/api/v1/namespaces/shop/services/a").1["metadata"]["name"], "a");
    assert_eq!(get(&server, "/api/v1/namespaces/other/services").1["items"], json!([]));
    assert_eq!(get(&server, "/api/v1/namespaces/shop/services/none").0, 404);
}

#[test]
fn watch_resumes_and_follows_the_selector() {
    let server = ApiServer::start();
    let since = server.apply(service("a", json!({})));
    server.apply(service("a", json!({"hidden": "x"})));
    server.apply(service("b", json!({})));
    server.delete("Service", "shop", "b");
    let path = format!("/api/v1/services?watch=1&resourceVersion={since}&labelSelector=%21hidden");
    let events: Vec<_> = events(open(&server, &path)).take(3).collect();
    let seen: Vec<_> = events
        .iter()
        .map(|e| (e["type"].as_str().unwrap(), e["object"]["metadata"]["name"].as_str().unwrap()))
        .collect();
    assert_eq!(seen, [("DELETED", "a"), ("ADDED", "b"), ("DELETED", "b")]);
}

#[test]
fn watch_has_bookmarks_initial_events_and_a_timeout() {
    let server = ApiServer::builder().bookmarks(Duration::from_millis(20)).start();
    server.apply(service("a", json!({})));
    let path = "/api/v1/services?watch=true&allowWatchBookmarks=true&sendInitialEvents=true\
                &resourceVersionMatch=NotOlderThan&timeoutSeconds=1";
    let events: Vec<_> = events(open(&server, path)).collect();
    assert_eq!(events[0]["type"], "ADDED");
    assert_eq!(events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(events[2]["type"], "BOOKMARK");
}

#[test]
fn watch_from_forgotten_changes_is_gone() {
    let server = ApiServer::start();
    let since = server.apply(service("a", json!({})));
    server.compact();
    let path = format!("/api/v1/services?watch=1&resourceVersion={since}");
    let error = events(open(&server, &path)).next().unwrap();
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
}

#[test]
fn restored_server_sends_nothing_to_watches_that_are_ahead_and_ends_those_that_run() {
    let server = ApiServer::builder().bookmarks(Duration::from_millis(20)).start();
    server.apply(service("kept", json!({})));
    let backup = server.backup();
    let lost: Vec<_> =
        (0..9).map(|n| server.apply(service(&format!("lost-{n}"), json!({})))).collect();
    let ahead = lost[8];
    let watch = |since: u64| {
        let path = "/api/v1/services?watch=true&allowWatchBookmarks=true&timeoutSeconds=1";
        open(&server, &format!("{path}&resourceVersion={since}"))
    };
    let mut running = events(watch(ahead));
    assert_eq!(running.next().unwrap()["type"], "BOOKMARK");
    server.restore(&backup);
    // What was on its way are bookmarks.
    assert!(running.all(|event| event["type"] == "BOOKMARK"));
    server.apply(service("new", json!({})));
    assert_eq!(events(watch(ahead)).next(), None);
    assert_eq!(names(&get(&server, "/api/v1/services").1), ["kept", "new"]);
}

#[test]
fn faults_begin_and_end() {
    let server = ApiServer::start();
    let mut watch = open(&server, "/api/v1/services?watch=1&resourceVersion=1");
    // Another connection's request could be read first otherwise.
    let deadline = Instant::now() + DEADLINE;
    while server.watches() == 0 {
        assert!(Instant::now() < deadline, "the watch does not run");
        std::thread::sleep(Duration::from_millis(1));
    }
    server.set_fault(Fault::Status(503));
    assert_eq!(get(&server, "/api/v1/services").0, 503);
    watch.read_to_end(&mut Vec::new()).unwrap();
    server.require_token("t");
    server.set_fault(Fault::None);
    assert_eq!(get(&server, "/api/v1/services").0, 401);

    let mut silent = open(&server, "/livez");
    server.set_fault(Fault::Silent);
    silent.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    silent.read_to_end(&mut Vec::new()).ok();
    server.set_fault(Fault::Down);
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    let _closed = silent.read_to_end(&mut Vec::new());
    // The listener is closed in another thread than the connection.
    let is_closed = || {
        std::thread::sleep(Duration::from_millis(10));
        TcpStream::connect(server.address()).is_err()
    };
    assert!((0..1000).any(|_| is_closed()), "the port is still open");
    server.set_fault(Fault::None);
    let mut again = None;
    for _ in 0..1000 {
        again = TcpStream::connect(server.address()).ok();
        if again.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(again.is_some(), "the port is not open again");
    let started = server.requests();
    assert!(started[0].is_watch() && !started[1].is_watch());
}
