//! The watches against an API server in memory with faults.

mod definition;
mod restored;

use std::fs;
use std::time::Duration;

use api_server::{ApiServer, Authority, Fault};
use serde_json::json;
use sluice_core::model::{Change, Kind};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::restored::SILENT_AFTER;
use super::transport::DEAD_AFTER;
use super::watch::spawn;
use crate::config::{ApiAccess, WatchedPods};
use crate::watches::{Watch, Watches};

/// Time in which a new Service arrives after the return of the API server.
const RECOVERY: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_secs(30);
const KINDS: usize = 8;
/// One per kind, and that of the definition of ClusterNetworkPolicies.
const WATCHES: usize = KINDS + 1;

/// The watches of a node, with a kubeconfig whose credentials are in files.
struct Node {
    dir: TempDir,
    changes: mpsc::Receiver<Change>,
    watches: Watches,
}

impl Node {
    /// Starts the watches.
    async fn watch(server: &ApiServer, ca_pem: &str) -> Node {
        Node::watch_pods(server, ca_pem, WatchedPods::All).await
    }

    async fn watch_pods(server: &ApiServer, ca_pem: &str, pods: WatchedPods) -> Node {
        Node::watch_with(server, ca_pem, pods, SILENT_AFTER).await
    }

    /// Watches that are silent after this time without data.
    async fn watch_silent(server: &ApiServer, silent_after: Duration) -> Node {
        Node::watch_with(server, "", WatchedPods::All, silent_after).await
    }

    async fn watch_with(
        server: &ApiServer,
        ca_pem: &str,
        pods: WatchedPods,
        silent_after: Duration,
    ) -> Node {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), "t1").unwrap();
        fs::write(dir.path().join("ca.crt"), ca_pem).unwrap();
        kubeconfig(&dir, server);
        let (sender, changes) = mpsc::channel(64);
        let watches = Watches::default();
        let access = ApiAccess {
            kubeconfig: Some(dir.path().join("kubeconfig")),
            kubelet_conf: "/does/not/exist".into(),
            server: None,
        };
        let change = |change| change;
        spawn(&access, "n1", pods, &sender, change, &watches, silent_after).await.unwrap();
        Node { dir, changes, watches }
    }

    /// Starts the watches and waits until all lists have arrived.
    async fn start(server: &ApiServer, ca_pem: &str) -> Node {
        let mut node = Node::watch(server, ca_pem).await;
        node.lists(Instant::now() + DEADLINE, KINDS).await;
        eventually("all watches", || server.watches() == WATCHES).await;
        node
    }

    /// Waits until the lists of so many kinds are complete.
    async fn lists(&mut self, deadline: Instant, kinds: usize) {
        let mut complete = 0;
        while complete < kinds {
            let change = self.next(deadline, "list").await;
            complete += usize::from(matches!(change, Change::Retain(..)));
        }
    }

    async fn next(&mut self, deadline: Instant, what: &str) -> Change {
        let change = timeout_at(deadline, self.changes.recv()).await;
        change.unwrap_or_else(|_| panic!("no {what}; {:?}", self.watches.report())).unwrap()
    }

    /// Waits until the Service arrives, as an event or in a list.
    async fn service(&mut self, name: &str, deadline: Instant) {
        loop {
            if let Change::Apply(object) = self.next(deadline, name).await
                && *object.name().name == *name
            {
                return;
            }
        }
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.dir.path().join(file), text).unwrap();
    }

    fn report(&self, kind: &str) -> Watch {
        self.watches.report().into_iter().find(|watch| watch.kind == kind).unwrap()
    }

    /// Waits until the watch of Services has failed at least this often.
    async fn failures(&self, at_least: u64) {
        eventually("a failure", || self.report("Service").failures >= at_least).await;
    }
}

fn kubeconfig(dir: &TempDir, server: &ApiServer) {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {
            "server": server.url(),
            "certificate-authority": dir.path().join("ca.crt"),
        }}],
        "users": [{"name": "u", "user": {"tokenFile": dir.path().join("token")}}],
    });
    fs::write(dir.path().join("kubeconfig"), config.to_string()).unwrap();
}

fn service(server: &ApiServer, name: &str) {
    server.apply(json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    }));
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not reached: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn tls() -> (ApiServer, String) {
    let authority = Authority::new();
    let ca_pem = authority.ca_pem.clone();
    (ApiServer::builder().tls(authority).start(), ca_pem)
}

/// With the backoff of each watch, 0.8 s doubled, an outage of 12 s was followed by up to 12 s without
/// changes.
#[tokio::test]
async fn new_service_arrives_within_3_seconds_of_the_api_servers_return() {
    for fault in [Fault::Down, Fault::Status(503)] {
        let (server, ca) = tls();
        let mut node = Node::start(&server, &ca).await;
        server.set_fault(fault);
        let outage = Instant::now() + Duration::from_secs(12);
        tokio::time::sleep_until(outage).await;
        node.failures(1).await;
        let lists = server.requests().iter().filter(|request| !request.is_watch()).count();
        service(&server, "new");
        server.set_fault(Fault::None);
        node.service("new", Instant::now() + RECOVERY).await;
        eventually("all watches work", || {
            node.watches.report().iter().all(|watch| watch.failing_seconds.is_none())
        })
        .await;
        let after = server.requests().iter().filter(|request| !request.is_watch()).count();
        assert_eq!(after, lists, "{fault:?}: the watches resume without lists");
    }
}

/// A probe that was accepted before the return ends at the deadline of the handshake.
#[tokio::test]
async fn new_service_arrives_soon_after_the_return_of_a_silent_api_server() {
    let (server, ca) = tls();
    let mut node = Node::start(&server, &ca).await;
    server.set_fault(Fault::Silent);
    node.failures(1).await;
    service(&server, "new");
    server.set_fault(Fault::None);
    node.service("new", Instant::now() + Duration::from_secs(7)).await;
}

#[tokio::test]
async fn absent_api_server_gets_about_one_request_a_second() {
    let server = ApiServer::start();
    let node = Node::start(&server, "").await;
    server.set_fault(Fault::Status(503));
    node.failures(1).await;
    let before = server.requests().len();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let requests = server.requests().len() - before;
    assert!((5..=20).contains(&requests), "{requests} requests in 10 s");
}

#[tokio::test]
async fn connection_that_is_silent_and_open_is_replaced_within_15_seconds() {
    let (server, ca) = tls();
    let mut node = Node::start(&server, &ca).await;
    assert!(server.requests().iter().all(|request| request.http2));
    server.silence_connections();
    service(&server, "new");
    node.service("new", Instant::now() + DEAD_AFTER).await;
}

#[tokio::test]
async fn forgotten_resource_version_leads_to_a_new_list() {
    let server = ApiServer::start();
    let mut node = Node::start(&server, "").await;
    service(&server, "new");
    node.service("new", Instant::now() + RECOVERY).await;
    server.compact();
    node.lists(Instant::now() + RECOVERY, KINDS).await;
}

#[tokio::test]
async fn slow_api_server_is_no_failure() {
    let server = ApiServer::start();
    server.set_fault(Fault::Slow(Duration::from_millis(500)));
    let mut node = Node::start(&server, "").await;
    service(&server, "new");
    node.service("new", Instant::now() + RECOVERY).await;
    assert_eq!(node.report("Service").failures, 0);
}

#[tokio::test]
async fn rotated_token_is_used_at_once() {
    let server = ApiServer::start();
    server.require_token("t1");
    let mut node = Node::start(&server, "").await;
    // The server forgets the old token and closes the watches.
    server.require_token("t2");
    server.set_fault(Fault::Status(503));
    node.failures(1).await;
    server.set_fault(Fault::None);
    node.failures(2).await;
    eventually("401", || {
        let error = node.report("Service").error;
        error.is_some_and(|error| error.contains("Unauthorized"))
    })
    .await;
    node.write("token", "t2");
    service(&server, "new");
    node.service("new", Instant::now() + RECOVERY).await;
}

#[tokio::test]
async fn rotated_token_leaves_running_watches_alone() {
    let server = ApiServer::start();
    let node = Node::start(&server, "").await;
    let before = server.requests().len();
    node.write("token", "t2");
    // Twice the interval at which the files are compared.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(server.requests().len(), before);
}

#[tokio::test]
async fn replaced_ca_is_read_again() {
    let (server, ca) = tls();
    let mut node = Node::start(&server, &ca).await;
    let next = Authority::new();
    server.set_authority(next.clone());
    server.set_fault(Fault::Down);
    node.failures(1).await;
    server.set_fault(Fault::None);
    eventually("certificate error", || {
        node.report("Service").error.is_some_and(|error| error.contains("certificate"))
    })
    .await;
    node.write("ca.crt", &next.ca_pem);
    service(&server, "new");
    node.service("new", Instant::now() + RECOVERY).await;
}

#[tokio::test]
async fn new_address_is_used_while_the_old_one_still_works() {
    let (old, new) = (ApiServer::start(), ApiServer::start());
    let mut node = Node::start(&old, "").await;
    service(&new, "new");
    kubeconfig(&node.dir, &new);
    node.service("new", Instant::now() + DEADLINE).await;
    eventually("watches of the old address end", || old.watches() == 0).await;
    assert_eq!(node.report("Service").failing_seconds, None);
}

#[tokio::test]
async fn state_of_a_watch_shows_bookmarks_and_failures() {
    let server = ApiServer::builder().bookmarks(Duration::from_millis(100)).start();
    let node = Node::start(&server, "").await;
    let watch = node.report("Service");
    assert_eq!((watch.synced, watch.failing_seconds, watch.failures), (true, None, 0));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(node.report("Service").idle_seconds < Some(2), "bookmarks count as data");
    server.set_fault(Fault::Down);
    node.failures(1).await;
    let watch = node.report("Service");
    assert!(watch.synced && watch.failing_seconds.is_some() && watch.error.is_some(), "{watch:?}");
    server.set_fault(Fault::None);
    eventually("the watch works", || node.report("Service").failing_seconds.is_none()).await;
}

/// Servers before Kubernetes 1.33 do not have ServiceCIDRs.
#[tokio::test]
async fn server_without_service_cidrs_is_no_failure_and_is_asked_again_rarely() {
    let server = ApiServer::start();
    server.set_served("servicecidrs", false);
    let mut node = Node::watch(&server, "").await;
    // Their list is known to be empty.
    node.lists(Instant::now() + DEADLINE, KINDS).await;
    eventually("the answer", || node.report("ServiceCIDR").not_served).await;
    let watch = node.report("ServiceCIDR");
    assert!(watch.synced && watch.error.is_none() && watch.failures == 0, "{watch:?}");
    let asked = || server.requests().iter().filter(|r| r.path.ends_with("/servicecidrs")).count();
    let before = asked();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((before, asked()), (1, 1), "requests");
}

#[tokio::test]
async fn pods_of_all_nodes_or_of_this_node_are_watched_while_they_run() {
    for (pods, expected) in
        [(WatchedPods::All, &["near", "far"][..]), (WatchedPods::Node, &["near"])]
    {
        let server = ApiServer::start();
        for (name, node, phase) in
            [("near", "n1", "Running"), ("far", "n2", "Pending"), ("over", "n1", "Succeeded")]
        {
            server.apply(json!({
                "kind": "Pod", "apiVersion": "v1", "metadata": {"namespace": "shop", "name": name},
                "spec": {"nodeName": node}, "status": {"phase": phase},
            }));
        }
        let mut node = Node::watch_pods(&server, "", pods).await;
        let deadline = Instant::now() + DEADLINE;
        let names = loop {
            if let Change::Retain(Kind::Pod, names) = node.next(deadline, "list of Pods").await {
                break names;
            }
        };
        let mut names: Vec<&str> = names.iter().map(|name| &*name.name).collect();
        names.sort_by_key(|name| expected.iter().position(|e| e == name));
        assert_eq!(names, expected);
        eventually("the watch", || server.watches() == WATCHES).await;
    }
}
