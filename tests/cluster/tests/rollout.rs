//! Requests during a rolling update.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

use std::io::{self, Write};
use std::time::Duration;

use cluster_tests::{
    Deletions, Load, Namespace, client, client_on, replicas, rollout, service, workers,
};

/// A new Pod before each removal, and a preStop hook longer than endpoint changes take.
const PATCH: &str = r#"{"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
    "template": {"spec": {"terminationGracePeriodSeconds": 20, "containers": [
      {"name": "main", "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}}}]}}}}"#;

/// A new Pod before each removal.
const SURGE: &str =
    r#"{"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}}}"#;

#[test]
fn rolling_update_loses_no_request() {
    let ns = Namespace::new("rolling");
    let web = service("web", "web", &[("web", "TCP", 80, "8080")]);
    ns.apply(&(client("client") + &replicas("web", 2) + &web));
    ns.kubectl(&["patch", "deployment", "web", "-p", PATCH]);
    rollout(&ns.name, "deployment/web");
    ns.ready("client", 1);
    let url = format!("http://{}/hostname", ns.cluster_ip("web"));
    let load = Load::start(&ns, "client", &url);
    ns.kubectl(&["rollout", "restart", "deployment/web"]);
    rollout(&ns.name, "deployment/web");
    load.expect_no_failure();
}

/// Restarts in an ordinary run. `SLUICE_RESTARTS=60` (about 15,000 requests) excuses no request.
const RESTARTS: u32 = 2;
/// Requests that may be excused in each restart: those to one of the two pods within half a second.
const EXCUSED: usize = 25;
const RATE: u32 = 100;
/// How long the pods go on after their deletion.
const SERVING: Duration = Duration::from_secs(1);
/// Half the time that the pods go on: an agent that learns of a deletion programs it within this time, also on
/// a busy machine.
const PROGRAMMING: Duration = Duration::from_millis(500);

/// The pods end one second after their deletion, without a preStop hook. The EndpointSlice arrives
/// after kubelet has begun to stop them, the Pod's deletionTimestamp before.
///
/// An API server that is more than half a second late is not a failure of the agents: in an ordinary run, a few
/// requests may fail after a pod has ended until half a second after another watch, beside those of the agents, has
/// received its deletion. A request at any other time may not, nor a request of a client without a late deletion.
#[test]
fn rolling_restarts_of_pods_that_end_after_a_second_lose_no_request() {
    let ns = Namespace::new("restarts");
    let workers = workers();
    let web = service("web", "web", &[("web", "TCP", 80, "8080")]);
    let servers = replicas("web", 2)
        .replace("--udp-port=8080]", "--udp-port=8080, --delay-shutdown=1]")
        .replace("terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 10");
    let clients = ["near", "far"];
    let client = |n: usize| client_on(clients[n], &workers[n].name, false);
    ns.apply(&(client(0) + &client(1) + &servers + &web));
    ns.kubectl(&["patch", "deployment", "web", "-p", SURGE]);
    rollout(&ns.name, "deployment/web");
    clients.iter().for_each(|client| drop(ns.ready(client, 1)));
    let address = ns.cluster_ip("web");
    let given = std::env::var("SLUICE_RESTARTS").ok();
    let restarts: u32 = given.as_ref().map_or(RESTARTS, |n| n.parse().expect("a number"));
    let deletions = Deletions::watch(&ns);
    // A client on each node: together they have the rate.
    let loads = clients.map(|client| Load::at_rate(&ns, client, &address, RATE / 2));
    for _ in 0..restarts {
        ns.kubectl(&["rollout", "restart", "deployment/web"]);
        rollout(&ns.name, "deployment/web");
    }
    let mut failed: Vec<_> = loads.into_iter().flat_map(Load::failures).collect();
    // Without its reports, no failure would be excused, and the reason would be missing.
    assert!(deletions.count() >= 2 * restarts as usize, "{} deletions", deletions.count());
    let all = failed.len();
    failed.retain(|failure| match deletions.late_at(failure.began, SERVING, PROGRAMMING) {
        Some(pod) => {
            println!("the deletion of {pod} was reported too late for {failure:?}");
            false
        }
        None => true,
    });
    // To standard output itself, which libtest does not capture.
    let excused = all - failed.len();
    let _ = writeln!(io::stdout().lock(), "\n    {excused} failures excused, {restarts} restarts");
    assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), &failed[..failed.len().min(5)]);
    let most = if given.is_some() { 0 } else { EXCUSED * restarts as usize };
    assert!(all <= most, "{all} failed because the API server was late, more than {most}");
}
