//! Requests during a rolling update.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

use cluster_tests::{Namespace, client, replicas, service};

/// A new Pod before each removal, and a preStop hook longer than endpoint changes take.
const PATCH: &str = r#"{"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
    "template": {"spec": {"terminationGracePeriodSeconds": 20, "containers": [
      {"name": "main", "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}}}]}}}}"#;

#[test]
fn rolling_update_loses_no_request() {
    let ns = Namespace::new("rolling");
    let web = service("web", "web", &[("web", "TCP", 80, "8080")]);
    ns.apply(&(client("client") + &replicas("web", 2) + &web));
    ns.kubectl(&["patch", "deployment", "web", "-p", PATCH]);
    ns.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    ns.ready("client", 1);
    let ip = ns.cluster_ip("web");
    ns.sh_eventually("client", &format!("curl -sf -m 3 http://{ip}/hostname"));
    let load = format!(
        "(while [ ! -e /tmp/stop ]; do \
         curl -sf -m 3 -o /dev/null http://{ip}/hostname && echo ok || echo FAILED; \
         done > /tmp/out 2>&1; touch /tmp/done) > /dev/null 2>&1 < /dev/null &"
    );
    ns.sh("client", &load).unwrap();
    ns.kubectl(&["rollout", "restart", "deployment/web"]);
    ns.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    ns.sh("client", "touch /tmp/stop").unwrap();
    ns.sh_eventually("client", "test -e /tmp/done");
    let log = ns.sh("client", "cat /tmp/out").unwrap();
    let (ok, failed): (Vec<&str>, Vec<&str>) = log.lines().partition(|line| *line == "ok");
    assert!(ok.len() > 50, "{} requests are too few", ok.len());
    assert!(failed.is_empty(), "{} of {} requests failed", failed.len(), ok.len() + failed.len());
}
